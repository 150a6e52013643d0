//! Redis's glob patterns: `*`, `?`, `[abc]`, `[^a-z]`, `\x`.
//!
//! Not a shell's: there are no path separators, a class may run backwards (`[z-a]`), an unclosed class
//! ends with the pattern. Only the last `*` is ever retried, so the work is bounded by
//! `pattern.len() * text.len()` and no pattern can stop the node.

/// Whether all of `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_with(pattern, text, |byte| byte)
}

/// As [`matches`], ASCII letters being equal in both cases.
pub fn matches_ignoring_case(pattern: &[u8], text: &[u8]) -> bool {
    matches_with(pattern, text, |byte| byte.to_ascii_lowercase())
}

fn matches_with(pattern: &[u8], text: &[u8], fold: impl Fn(u8) -> u8 + Copy) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if t == text.len() {
            if p == pattern.len() {
                return true;
            }
        } else if let Some(next) = one(pattern, p, text[t], fold) {
            (p, t) = (next, t + 1);
            continue;
        }
        match star {
            Some((after, from)) if from < text.len() => {
                (p, t) = (after, from + 1);
                star = Some((after, from + 1));
            }
            _ => return false,
        }
    }
}

/// Where the pattern goes on after its element at `p` has matched `byte`, if it does.
fn one(pattern: &[u8], p: usize, byte: u8, fold: impl Fn(u8) -> u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => class(pattern, p + 1, byte, fold),
        b'\\' if p + 1 < pattern.len() => (fold(pattern[p + 1]) == fold(byte)).then_some(p + 2),
        literal => (fold(literal) == fold(byte)).then_some(p + 1),
    }
}

fn class(pattern: &[u8], mut p: usize, byte: u8, fold: impl Fn(u8) -> u8) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let (byte, mut found) = (fold(byte), false);
    loop {
        match pattern.get(p..).unwrap_or_default() {
            [] => break,
            [b']', ..] => {
                p += 1;
                break;
            }
            [b'\\', escaped, ..] => {
                found |= fold(*escaped) == byte;
                p += 2;
            }
            [start, b'-', end, ..] => {
                let (start, end) = (fold(*start), fold(*end));
                found |= (start.min(end)..=start.max(end)).contains(&byte);
                p += 3;
            }
            [single, ..] => {
                found |= fold(*single) == byte;
                p += 1;
            }
        }
    }
    (found != negated).then_some(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            ("[\\]]", "]", true),
            ("[abc", "b", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("*a", "aaab", false),
            ("**x", "x", true),
            ("a\\", "a\\", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                want,
                "{pattern} on {text}"
            );
        }
        assert!(matches_ignoring_case(b"SAV[D-F]", b"save"));
        assert!(!matches(b"SAVE", b"save"));
    }

    #[test]
    fn no_pattern_takes_for_ever() {
        assert!(!matches(
            &[b"*a".repeat(50), b"b".to_vec()].concat(),
            &[b'a'; 50_000]
        ));
    }
}
