//! What was typed, kept between shells: `$XDG_STATE_HOME/marline/history`, one line each.
//!
//! Every line is appended as it is typed, so that two shells at once lose nothing and a killed one keeps
//! what it had. Lines that hold secrets are not kept at all. A history that cannot be read or written is
//! no reason not to work: it is simply not there.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Lines that a shell starts with; the file is cut back to so many when it holds twice as many.
const LINES_MAX: usize = 1000;
const OWNER_ONLY: u32 = 0o600;

/// The file of one shell.
#[derive(Debug)]
pub(super) struct History {
    file: Option<File>,
}

impl History {
    /// Opens the history and returns the last of its lines, oldest first.
    pub(super) fn open() -> (History, Vec<String>) {
        let Some(path) = path() else {
            return (History { file: None }, Vec::new());
        };
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let kept = &lines[lines.len().saturating_sub(LINES_MAX)..];
        let mut appending = OpenOptions::new();
        appending.append(true).create(true).mode(OWNER_ONLY);
        let mut file = path
            .parent()
            .and_then(|folder| fs::create_dir_all(folder).ok())
            .and_then(|()| appending.open(&path).ok());
        if lines.len() >= 2 * LINES_MAX
            && let Some(file) = &mut file
        {
            let mut cut = kept.join("\n");
            cut.push('\n');
            let _ = file
                .set_len(0)
                .and_then(|()| file.write_all(cut.as_bytes()));
        }
        let kept = kept.iter().map(|&line| line.to_owned()).collect();
        (History { file }, kept)
    }

    /// Keeps a line.
    pub(super) fn add(&mut self, line: &str) {
        if let Some(file) = &mut self.file {
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
    }
}

fn path() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let state = variable("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/state")))?;
    Some(state.join("marline").join("history"))
}

/// Whether a line may hold a password.
pub(super) fn is_secret(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let mut words = line.split_whitespace();
    match words.next() {
        Some("auth" | "acl" | "migrate") => true,
        Some("hello") => words.any(|word| word == "auth"),
        Some("config") => line.contains("pass") || line.contains("masterauth"),
        Some(first) => first.contains("auth"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_kept() {
        for line in [
            "AUTH hunter2",
            " auth me hunter2",
            "hello 3 AUTH me hunter2",
            "acl setuser me >hunter2",
            "CONFIG SET requirepass hunter2",
            "\"auth\" hunter2",
        ] {
            assert!(is_secret(line), "{line}");
        }
        for line in ["", "get k", "set author x", "hello 3", "config get port"] {
            assert!(!is_secret(line), "{line}");
        }
    }
}
