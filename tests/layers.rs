//! The architecture as a test: `src/lib.rs` says in which order the modules stand, and this reads the rest of
//! the sources and fails on an import that goes up or sideways. Beside it, what keeps a source file readable.
//!
//! It reads text, not Rust: comments are taken out, then every `crate::…` and `super::…` is followed to the
//! module it names. Every complaint is `file:line: what is wrong`, and names the rule.

#![allow(clippy::unwrap_used, reason = "a test says what it misses by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const LINE_CHARS_MAX: usize = 120;
/// Of a line with a string or a macro's arguments, which rustfmt leaves as it is.
const UNBROKEN_LINE_CHARS_MAX: usize = 150;
const FILE_LINES_MAX: usize = 720;
const FUNCTION_LINES_MAX: usize = 70;
/// Rooms whose files must not import each other in a ring, however long.
const ROOMS_WITHOUT_RINGS: [&str; 7] = [
    "client", "cluster", "command", "disk", "reactor", "store", "wire",
];
/// Imports that close a ring on purpose; one that closes none any more must leave this list.
const CLOSING_IMPORTS: [(&str, &str); 3] = [
    // A context holds the application and the net; the net is generic over the application.
    ("reactor::app", "reactor::net"),
    // The simulator and its world are one thing in two files.
    ("reactor::sim_world", "reactor::sim"),
    // A bit field is one of the writes and is made of their helpers.
    ("store::bitfield", "store::write"),
];

/// One source file.
struct Source {
    /// From the root of the repository.
    path: String,
    text: String,
    /// Its module, without `crate`: `["reactor", "sim_world", "socket"]`.
    module: Vec<String>,
}

/// Which module names which, and at which `file:line`.
type Edges = BTreeMap<Vec<String>, BTreeMap<Vec<String>, String>>;

/// Somebody names a module.
#[derive(Debug)]
struct Import {
    line: usize,
    /// The module that it is in: the file's, or one written inside the file.
    from: Vec<String>,
    /// What it names, from the root of the crate.
    to: Vec<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file beneath `folder`, in order.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        match path.is_dir() {
            true => files(&path, found),
            false if path.extension().is_some_and(|ext| ext == "rs") => found.push(path),
            false => {}
        }
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    files(&root().join(folder), &mut paths);
    paths
        .into_iter()
        .map(|path| {
            let inside = path.strip_prefix(root()).unwrap();
            let module = inside.with_extension("");
            let parts = module.iter().skip(1);
            Source {
                path: inside.to_str().unwrap().to_owned(),
                text: fs::read_to_string(&path).unwrap(),
                module: parts
                    .map(|part| part.to_str().unwrap().to_owned())
                    .filter(|part| !matches!(part.as_str(), "mod" | "lib" | "main"))
                    .collect(),
            }
        })
        .collect()
}

/// Layer of every module, as `src/lib.rs` declares them: `// L1`, then its modules.
fn layers(lib: &str) -> BTreeMap<String, u32> {
    let mut layers = BTreeMap::new();
    let mut layer = None;
    for (number, line) in lib.lines().enumerate() {
        let line = line.trim();
        if let Some(digits) = line.strip_prefix("// L") {
            let next = digits.parse().unwrap();
            assert!(
                Some(next) > layer,
                "src/lib.rs:{}: layers are declared bottom-up",
                number + 1
            );
            layer = Some(next);
        } else if let Some(rest) = line.strip_prefix("pub mod ") {
            let layer = layer.expect("a `// Ln` line stands before the first module");
            layers.insert(rest.trim_end_matches(';').to_owned(), layer);
        }
    }
    assert!(layers.len() > 5, "src/lib.rs declares modules");
    layers
}

/// The text without comments, and with blanks in place of what stands in quotes on one line.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    for line in text.lines() {
        let mut quoted = false;
        let mut before = ' ';
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            if !quoted && c == '/' && chars.peek() == Some(&'/') {
                break;
            }
            let is_quote =
                c == '"' && before != '\\' && !(before == '\'' && chars.peek() == Some(&'\''));
            quoted ^= is_quote;
            code.push(if quoted { ' ' } else { c });
            before = if before == '\\' { ' ' } else { c };
        }
        code.push('\n');
    }
    code
}

fn is_ident(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The identifier at the beginning of `text`.
fn ident(text: &str) -> &str {
    &text[..text.find(|c| !is_ident(c)).unwrap_or(text.len())]
}

/// The first words of a group's items: `{self, a::b, c}` -> `a`, `c`.
fn group_items(group: &str) -> Vec<&str> {
    let mut items = Vec::new();
    let (mut depth, mut begin) = (0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => {
                depth += 1;
                begin = depth == 1;
            }
            '}' => depth -= 1,
            ',' => begin = depth == 1,
            c if is_ident(c) && begin => {
                items.push(ident(&group[at..]));
                begin = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    items.retain(|item| *item != "self");
    items
}

/// The paths that `text`, which begins behind `crate::` or `super::`, goes on to from `base`.
fn paths(text: &str, base: &[String]) -> Vec<Vec<String>> {
    let mut path = base.to_vec();
    let mut rest = text;
    loop {
        if rest.starts_with('{') {
            return group_items(rest)
                .into_iter()
                .map(|item| [path.as_slice(), &[item.to_owned()]].concat())
                .collect();
        }
        let name = ident(rest);
        if name.is_empty() {
            return vec![path];
        }
        path.push(name.to_owned());
        match rest[name.len()..].strip_prefix("::") {
            Some(more) => rest = more,
            None => return vec![path],
        }
    }
}

/// Everything that a file imports or names by a path. Modules written inside the file (`mod tests {`) are
/// followed by their indentation, which rustfmt keeps right.
fn imports(source: &Source) -> Vec<Import> {
    let code = code(&source.text);
    let mut found = Vec::new();
    let mut inner: Vec<(usize, String)> = Vec::new();
    let mut offset = 0;
    for (number, line) in code.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if line.trim() == "}" && inner.last().is_some_and(|(at, _)| *at == indent) {
            inner.pop();
        }
        let names = inner.iter().map(|(_, name)| name.clone());
        let from: Vec<String> = source.module.iter().cloned().chain(names).collect();
        for (at, base) in anchors(line, &from) {
            for to in paths(&code[offset + at..], &base) {
                let (line, from) = (number + 1, from.clone());
                found.push(Import { line, from, to });
            }
        }
        let declared = line.trim().trim_start_matches("pub ").strip_prefix("mod ");
        if let Some(rest) = declared.filter(|rest| rest.ends_with('{')) {
            inner.push((indent, ident(rest).to_owned()));
        }
        offset += line.len() + 1;
    }
    found
}

/// Where on a line a path begins that is rooted in `crate` or `super`, and the module it begins in.
fn anchors(line: &str, from: &[String]) -> Vec<(usize, Vec<String>)> {
    let mut anchors = Vec::new();
    let mut at = 0;
    while at < line.len() {
        let rest = &line[at..];
        let begins = !line[..at].ends_with(|c: char| is_ident(c) || c == ':' || c == '$');
        if begins && rest.starts_with("crate::") {
            at += "crate::".len();
            anchors.push((at, Vec::new()));
        } else if begins && rest.starts_with("super::") {
            let mut base = from.to_vec();
            while line[at..].starts_with("super::") {
                base.pop();
                at += "super::".len();
            }
            anchors.push((at, base));
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    anchors
}

#[test]
fn the_declaration_order_is_the_architecture() {
    let sources = sources("src");
    let lib = sources.iter().find(|source| source.path == "src/lib.rs");
    let layers = layers(&lib.unwrap().text);
    let mut complaints = Vec::new();
    for source in &sources {
        let Some(room) = source.module.first() else {
            continue;
        };
        let Some(&layer) = layers.get(room) else {
            complaints.push(format!("{}:1: {room} is not in src/lib.rs", source.path));
            continue;
        };
        for import in imports(source) {
            let other = import.to.first().map_or("", String::as_str);
            let why = match layers.get(other) {
                _ if other == room => continue,
                None => "is no module of src/lib.rs".to_owned(),
                Some(above) if *above > layer => format!("lies above, in L{above}"),
                Some(beside) if *beside == layer => {
                    "is a sibling, and siblings are strangers".to_owned()
                }
                Some(_) => continue,
            };
            complaints.push(format!(
                "{}:{}: {room} (L{layer}) names {other}, which {why}; a module imports only from the layers \
                 declared before its own in src/lib.rs",
                source.path, import.line
            ));
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// The longest module that `path` leads through.
fn module_of(path: &[String], modules: &BTreeSet<Vec<String>>) -> Option<Vec<String>> {
    (1..=path.len())
        .rev()
        .map(|len| path[..len].to_vec())
        .find(|prefix| modules.contains(prefix))
}

/// Which module of a room names which, and where. A parent may name its children and they may name it: that
/// they belong together is what being its children means.
fn edges(room: &str, sources: &[Source]) -> Edges {
    let of_room = || {
        sources
            .iter()
            .filter(|source| source.module.first().is_some_and(|first| first == room))
    };
    let modules: BTreeSet<Vec<String>> = of_room().map(|source| source.module.clone()).collect();
    let mut edges: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for source in of_room() {
        for import in imports(source) {
            let in_tests = import.from.len() > source.module.len();
            let Some(to) = module_of(&import.to, &modules).filter(|_| !in_tests) else {
                continue;
            };
            let related = to.starts_with(&source.module) || source.module.starts_with(&to);
            if !related {
                let place = format!("{}:{}", source.path, import.line);
                let from = edges.entry(source.module.clone()).or_default();
                from.entry(to).or_insert(place);
            }
        }
    }
    edges
}

/// A way from `at` to `goal` along `edges`, as the places that name each other.
fn way(
    at: &[String],
    goal: &[String],
    edges: &Edges,
    seen: &mut BTreeSet<Vec<String>>,
) -> Option<Vec<String>> {
    if !seen.insert(at.to_vec()) {
        return None;
    }
    for (next, place) in edges.get(at).into_iter().flatten() {
        let step = format!("{place} names {}", next.join("::"));
        if next == goal {
            return Some(vec![step]);
        }
        if let Some(rest) = way(next, goal, edges, seen) {
            return Some([vec![step], rest].concat());
        }
    }
    None
}

/// Takes away the imports that may close a ring, and complains of those that close none.
fn cut_closing_imports(room: &str, edges: &mut Edges, complaints: &mut BTreeSet<String>) {
    let module = |path: &str| -> Vec<String> { path.split("::").map(str::to_owned).collect() };
    for (from, to) in CLOSING_IMPORTS {
        if !from.starts_with(&format!("{room}::")) {
            continue;
        }
        let closes = way(&module(to), &module(from), edges, &mut BTreeSet::new()).is_some();
        let known = edges
            .get_mut(&module(from))
            .and_then(|from| from.remove(&module(to)));
        if known.is_none() || !closes {
            complaints.insert(format!(
                "{from} -> {to} closes no ring: take it from CLOSING_IMPORTS"
            ));
        }
    }
}

#[test]
fn files_of_a_room_do_not_import_in_rings() {
    let sources = sources("src");
    let mut complaints = BTreeSet::new();
    for room in ROOMS_WITHOUT_RINGS {
        let mut edges = edges(room, &sources);
        assert!(!edges.is_empty(), "files of {room} name each other");
        cut_closing_imports(room, &mut edges, &mut complaints);
        for module in edges.keys() {
            if let Some(mut ring) = way(module, module, &edges, &mut BTreeSet::new()) {
                ring.sort();
                complaints.insert(format!("a ring of imports in {room}: {}", ring.join(", ")));
            }
        }
    }
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn source_files_stay_readable() {
    let mut complaints = Vec::new();
    for source in sources("src").iter().chain(&sources("tests")) {
        let mut say =
            |line: usize, what: &str| complaints.push(format!("{}:{line}: {what}", source.path));
        if !source.text.starts_with("//!") {
            say(1, "a file begins with `//!` and what it is for");
        }
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            say(
                lines,
                &format!("a file has at most {FILE_LINES_MAX} lines; move a noun out"),
            );
        }
        long_lines(&source.text, &mut say);
        if source.path.starts_with("src") {
            long_functions(&source.text, &mut say);
        }
        let facades = code(&source.text);
        let facades = facades.lines().enumerate();
        for (number, _) in facades.filter(|(_, line)| line.trim_start().starts_with("pub use ")) {
            say(number + 1, "one path per name: no re-exports");
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Lines are short, except those of tables, which are marked so for rustfmt too.
fn long_lines(text: &str, say: &mut dyn FnMut(usize, &str)) {
    let mut in_table = false;
    for (number, line) in text.lines().enumerate() {
        in_table |= line.trim() == "#[rustfmt::skip]";
        let is_comment = line.trim_start().starts_with("//");
        let unbroken =
            !is_comment && (line.contains('"') || line.contains("!(") || line.contains("$("));
        let most = if unbroken {
            UNBROKEN_LINE_CHARS_MAX
        } else {
            LINE_CHARS_MAX
        };
        if !in_table && line.chars().count() > most {
            say(number + 1, &format!("a line has at most {most} characters"));
        }
        in_table &= line != "];" && line != "}";
    }
}

/// A function's body begins with the first line that ends with a brace, and ends where a brace stands under the
/// line that the function began on.
fn long_functions(text: &str, say: &mut dyn FnMut(usize, &str)) {
    let lines: Vec<&str> = text.lines().collect();
    for (begin, line) in lines.iter().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_function = words.iter().take(4).any(|word| *word == "fn");
        if !is_function || line.trim_start().starts_with("//") {
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indent}}}");
        let rest = &lines[begin..];
        let opens = rest
            .iter()
            .position(|line| line.ends_with('{'))
            .unwrap_or(0);
        let closes = rest.iter().position(|line| *line == closing).unwrap_or(0);
        let length = closes.saturating_sub(opens + 1);
        if length > FUNCTION_LINES_MAX {
            let what = format!(
                "a function's body has at most {FUNCTION_LINES_MAX} lines, this one {length}"
            );
            say(begin + 1, &what);
        }
    }
}

#[test]
fn the_reader_of_imports_reads() {
    let source = Source {
        path: "src/a/b.rs".to_owned(),
        text: "//! crate::not\nuse crate::{x, y::{z, w}};\nuse super::c::D;\nlet s = \"crate::no\";\n\
               mod tests {\n    use super::super::e;\n    use super::*;\n}\nfn f() { super::super::g::h() }\n"
            .to_owned(),
        module: vec!["a".to_owned(), "b".to_owned()],
    };
    let read: Vec<String> = imports(&source)
        .iter()
        .map(|import| format!("{} {}", import.line, import.to.join("::")))
        .collect();
    assert_eq!(
        read,
        ["2 x", "2 y", "3 a::c::D", "6 a::e", "7 a::b", "9 g::h"]
    );
    let layers = layers(
        "// L0\npub mod a;\npub mod b;\n// L1\npub mod c;\npub mod d;\n// L2\npub mod e;\npub mod f;\n",
    );
    assert_eq!((layers["a"], layers["d"], layers["f"]), (0, 1, 2));
}
