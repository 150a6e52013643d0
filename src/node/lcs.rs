//! The longest common subsequence of two strings, by the textbook's table.
//!
//! Matches are reported from the end to the beginning and ties are broken as Redis breaks them, so that
//! LCS answers byte for byte the same. The table takes four bytes for every pair of positions; what would
//! take more than [`TABLE_BYTES_MAX`] is refused.

/// Most memory the table may take.
const TABLE_BYTES_MAX: usize = crate::config::VALUE_BYTES_MAX;

/// What two strings have in common.
#[derive(Debug, PartialEq, Eq)]
pub struct Common {
    /// The subsequence.
    pub text: Vec<u8>,
    /// The runs it consists of, last one first.
    pub matches: Vec<Match>,
}

/// A run of bytes that both strings have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Where it begins in the first string.
    pub a: usize,
    /// Where it begins in the second.
    pub b: usize,
    /// Its length in bytes.
    pub len: usize,
}

/// The longest common subsequence of `a` and `b`, or `None` when the table would be too large.
pub fn longest(a: &[u8], b: &[u8]) -> Option<Common> {
    let width = b.len() + 1;
    let cells = width
        .checked_mul(a.len() + 1)
        .filter(|cells| cells * 4 <= TABLE_BYTES_MAX)?;
    let mut table = vec![0u32; cells];
    for (i, left) in a.iter().enumerate() {
        for (j, right) in b.iter().enumerate() {
            table[(i + 1) * width + j + 1] = if left == right {
                table[i * width + j] + 1
            } else {
                table[i * width + j + 1].max(table[(i + 1) * width + j])
            };
        }
    }
    let (mut i, mut j) = (a.len(), b.len());
    let mut common = Common {
        text: Vec::new(),
        matches: Vec::new(),
    };
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            (i, j) = (i - 1, j - 1);
            common.text.push(a[i]);
            match common.matches.last_mut() {
                Some(run) if run.a == i + 1 && run.b == j + 1 => {
                    (run.a, run.b) = (i, j);
                    run.len += 1;
                }
                _ => common.matches.push(Match { a: i, b: j, len: 1 }),
            }
        } else if table[(i - 1) * width + j] > table[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    common.text.reverse();
    Some(common)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_from_the_end() {
        let common = longest(b"ohmytext", b"mynewtext").unwrap();
        assert_eq!(common.text, b"mytext");
        assert_eq!(
            common.matches,
            [Match { a: 4, b: 5, len: 4 }, Match { a: 2, b: 0, len: 2 }]
        );
        assert_eq!(longest(b"", b"abc").unwrap().text, b"");
        assert_eq!(longest(b"abc", b"xyz").unwrap().matches, []);
    }
}
