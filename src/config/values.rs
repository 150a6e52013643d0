//! Where each option's value comes from: a flag, else the environment, else the file, else the default.
//!
//! ```text
//! --port 8002            MARLINE_PORT=8002            port 8002
//! --port=8002            MARLINE_PORT_FILE=/run/port  # a comment
//! ```
//!
//! `MARLINE_*_FILE` names a file whose first line is the value, as container secrets are handed over.

use std::fmt;

use super::table::{self, Form, SETTINGS, When};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// The configuration file, at a line.
    File(String, usize),
    /// An environment variable.
    Environment(String),
    /// The command line.
    Flag,
    /// CONFIG SET.
    Command,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{path}:{line}"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag => f.write_str("flag"),
            Origin::Command => f.write_str("CONFIG SET"),
        }
    }
}

/// A value that cannot be, and where it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Where.
    pub origin: Origin,
    /// Which option, as typed.
    pub name: String,
    /// Why not.
    pub reason: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.origin, self.name, self.reason)
    }
}

/// A value for every option.
#[derive(Debug, Clone)]
pub struct Values {
    values: Vec<(String, Origin)>,
}

impl Default for Values {
    fn default() -> Self {
        let checked = |setting: &table::Setting| {
            let value = setting
                .check(setting.default)
                .unwrap_or_else(|_| setting.default.to_owned());
            (value, Origin::Default)
        };
        Values {
            values: SETTINGS.iter().map(checked).collect(),
        }
    }
}

impl Values {
    /// The value of an option that the table has.
    pub fn get(&self, name: &str) -> &str {
        table::find(name).map_or("", |(index, _)| &self.values[index].0)
    }

    /// Whether somebody gave a value for this option.
    pub fn is_given(&self, name: &str) -> bool {
        self.iter()
            .any(|(setting, _, origin)| setting.name == name && *origin != Origin::Default)
    }

    /// Every option with its value and where that came from.
    pub fn iter(&self) -> impl Iterator<Item = (&'static table::Setting, &str, &Origin)> {
        SETTINGS
            .iter()
            .zip(&self.values)
            .map(|(setting, (value, origin))| (setting, value.as_str(), origin))
    }

    /// Sets one option.
    ///
    /// # Errors
    /// No such option, one that cannot be set there, or a value without its form.
    pub fn set(&mut self, name: &str, text: &str, origin: Origin) -> Result<(), Invalid> {
        let invalid = |reason: String, origin: Origin| Invalid {
            origin,
            name: name.to_owned(),
            reason,
        };
        let Some((index, setting)) = table::find(name) else {
            return Err(invalid("there is no such option".to_owned(), origin));
        };
        let settable = match setting.when {
            When::Always => true,
            When::Start => origin != Origin::Command,
            When::Never => false,
        };
        if !settable {
            return Err(invalid("can't set immutable config".to_owned(), origin));
        }
        match setting.check(text) {
            Ok(value) => self.values[index] = (value, origin),
            Err(reason) => return Err(invalid(reason, origin)),
        }
        Ok(())
    }

    /// Sets the options of a file of `name value` lines; `text` is its content, `path` its name.
    ///
    /// # Errors
    /// The first line that cannot be.
    pub fn set_from_file(&mut self, path: &str, text: &str) -> Result<(), Invalid> {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let value = value.trim();
            let value = value
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'))
                .unwrap_or(value);
            self.set(name, value, Origin::File(path.to_owned(), number + 1))?;
        }
        Ok(())
    }

    /// Sets the options of the environment; `read` reads a file that a `*_FILE` variable names.
    /// Variables that name no option are not ours.
    ///
    /// # Errors
    /// The first variable that cannot be.
    pub fn set_from_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
        read: impl Fn(&str) -> Result<String, String>,
    ) -> Result<(), Invalid> {
        for (variable, text) in variables {
            let Some(name) = variable.strip_prefix("MARLINE_") else {
                continue;
            };
            let (name, is_file) = match name.strip_suffix("_FILE") {
                Some(name) => (name, true),
                None => (name, false),
            };
            let name = name.to_ascii_lowercase().replace('_', "-");
            if table::find(&name).is_none() {
                continue;
            }
            let origin = Origin::Environment(variable.clone());
            let value = match is_file {
                true => read(&text).map_err(|reason| Invalid {
                    origin: origin.clone(),
                    name: name.clone(),
                    reason,
                })?,
                false => text,
            };
            self.set(&name, value.lines().next().unwrap_or(""), origin)?;
        }
        Ok(())
    }
}

/// The flags of the command line.
pub fn flags() -> getopts::Options {
    let mut flags = getopts::Options::new();
    for setting in SETTINGS
        .iter()
        .filter(|setting| setting.when != When::Never)
    {
        let help = match setting.default {
            "" => setting.help.to_owned(),
            default => format!("{} (default {default})", setting.help),
        };
        match setting.form {
            Form::YesNo => flags.optflagopt("", setting.name, &help, "yes|no"),
            _ => flags.optopt("", setting.name, &help, "VALUE"),
        };
    }
    flags.optopt("", "config", "file of `name value` lines", "FILE");
    flags.optflag(
        "",
        "print-config",
        "print every option with its value and where it came from",
    );
    flags.optflag("", "check-config", "say whether the configuration is whole");
    flags.optflag("h", "help", "print this");
    flags.optflag("V", "version", "print the version");
    flags
}

/// Gathers all values: defaults, then the file, then the environment, then the flags.
///
/// # Errors
/// The first value that cannot be, or a file that cannot be read.
pub fn gather(
    matches: &getopts::Matches,
    variables: &[(String, String)],
    read: impl Fn(&str) -> Result<String, String>,
) -> Result<Values, Invalid> {
    let mut values = Values::default();
    let file = matches.opt_str("config").or_else(|| {
        variables
            .iter()
            .find(|(name, _)| name == "MARLINE_CONFIG")
            .map(|(_, path)| path.clone())
    });
    if let Some(path) = file {
        let text = read(&path).map_err(|reason| Invalid {
            origin: Origin::File(path.clone(), 0),
            name: "config".to_owned(),
            reason,
        })?;
        values.set_from_file(&path, &text)?;
    }
    values.set_from_environment(variables.iter().cloned(), read)?;
    for setting in SETTINGS
        .iter()
        .filter(|setting| matches.opt_present_checked(setting.name))
    {
        let given = matches
            .opt_str(setting.name)
            .unwrap_or_else(|| "yes".to_owned());
        values.set(setting.name, &given, Origin::Flag)?;
    }
    Ok(values)
}

/// `opt_present` panics on names that are no flags.
trait OptPresentChecked {
    fn opt_present_checked(&self, name: &str) -> bool;
}

impl OptPresentChecked for getopts::Matches {
    fn opt_present_checked(&self, name: &str) -> bool {
        self.opt_defined(name) && self.opt_present(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(
        args: &[&str],
        variables: &[(&str, &str)],
        file: &'static str,
    ) -> Result<Values, Invalid> {
        let matches = flags().parse(args).expect("flags parse");
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        gather(&matches, &variables, |_| Ok(file.to_owned()))
    }

    #[test]
    fn the_nearest_source_wins() {
        let file = "port 1\nshards 2 \n# comment\n\nmaxclients \"3\"\n";
        let args = ["--config", "f", "--port", "4", "--insecure"];
        let values = gathered(
            &args,
            &[("MARLINE_PORT", "5"), ("MARLINE_SHARDS", "6")],
            file,
        )
        .unwrap();
        let origin = |name: &str| {
            values
                .iter()
                .find(|(setting, ..)| setting.name == name)
                .map(|(_, _, origin)| origin.to_string())
        };
        assert_eq!(
            (values.get("port"), origin("port").unwrap().as_str()),
            ("4", "flag")
        );
        assert_eq!(
            (values.get("shards"), origin("shards").unwrap().as_str()),
            ("6", "environment MARLINE_SHARDS")
        );
        assert_eq!(
            (
                values.get("maxclients"),
                origin("maxclients").unwrap().as_str()
            ),
            ("3", "f:5")
        );
        assert_eq!(
            (values.get("timeout"), origin("timeout").unwrap().as_str()),
            ("0", "default")
        );
        assert_eq!(values.get("insecure"), "yes");
    }

    #[test]
    fn a_bad_value_names_its_place() {
        let bad = |args: &[&str], variables: &[(&str, &str)], file| {
            gathered(args, variables, file).unwrap_err().to_string()
        };
        assert_eq!(
            bad(&["--config", "f"], &[], "port 8001\nbogus 1\n"),
            "f:2: bogus: there is no such option"
        );
        assert_eq!(
            bad(&[], &[("MARLINE_PORT", "70000")], ""),
            "environment MARLINE_PORT: port: argument must be between 0 and 65535 inclusive"
        );
        assert_eq!(
            bad(&["--port", "x"], &[], ""),
            "flag: port: argument couldn't be parsed into an integer"
        );
    }

    #[test]
    fn a_secret_comes_from_a_file() {
        let values = gathered(&[], &[("MARLINE_PORT_FILE", "/run/port")], "9000\nrest\n").unwrap();
        assert_eq!(values.get("port"), "9000");
    }

    #[test]
    fn a_reachable_address_needs_a_word() {
        let read = |args: &[&str]| super::super::Options::read(&gathered(args, &[], "").unwrap());
        assert_eq!(read(&["--bind", "0.0.0.0"]).unwrap_err().0, "bind");
        assert!(read(&["--bind", "0.0.0.0", "--insecure"]).is_ok());
        assert!(read(&["--bind", "::1"]).is_ok());
        assert!(read(&["--bind", "localhost"]).is_err());
    }
}
