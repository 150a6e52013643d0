//! Enums whose every variant has a name that people type and read, and a docstring that says what it is.

/// Declares such an enum, with all of them in the order of their declaration, the name of each, and the one of a name.
macro_rules! named {
    ($(#[$doc:meta])+ enum $type:ident; $($(#[$about:meta])+ $variant:ident = $name:literal,)+) => {
        $(#[$doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $type {
            $($(#[$about])+ $variant,)+
        }

        impl $type {
            /// All of them, in the order of their declaration.
            pub const ALL: &'static [$type] = &[$($type::$variant,)+];

            /// Its name on command lines, in scripts and in reports.
            pub fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $name,)+
                }
            }

            /// The one of this name.
            pub fn named(name: &str) -> Option<$type> {
                $type::ALL.iter().copied().find(|it| it.name() == name)
            }
        }
    };
}
