//! Floating point as INCRBYFLOAT knows it: C's `long double` on x86, 80 bits wide.
//!
//! Text in is what C's `strtold` takes, all of it: `1`, `+.5`, `5.`, `1e-3`, `0x1.8p3`, `inf`, but no
//! blanks, no NaN, nothing too large and nothing that becomes 0 for being too small. Text out is `%.17Lf`
//! without its trailing zeros. Both were compared with a Redis 7.0.15 on x86-64, byte for byte.
//!
//! Not here: doubles. Nothing else in the command set computes with fractions.

use rustc_apfloat::ieee::X87DoubleExtended;
use rustc_apfloat::{Float, Round, Status};

/// Longer text is no float: Redis's buffer ends there.
const TEXT_BYTES_MAX: usize = 5 * 1024 - 1;
/// No exponent beyond this (of ten or two) can be made finite by the digits that fit into the text.
const EXPONENT_MAX: i64 = 40_000;
const DECIMALS: u32 = 17;
/// Value of the lowest bit of a mantissa with exponent field 0 is 2^-this.
const BIAS: i32 = 16_383 + 63;

/// A `long double`; infinite ones are valid input to a sum.
pub type LongDouble = X87DoubleExtended;

/// Whether `text` is a number to INCRBYFLOAT.
pub fn is_float(text: &[u8]) -> bool {
    parse(text).is_some()
}

/// The number that `text` is, all of it.
pub fn parse(text: &[u8]) -> Option<LongDouble> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let (is_negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let sign = |value: LongDouble| if is_negative { -value } else { value };
    if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
        return Some(sign(LongDouble::INFINITY));
    }
    let magnitude = match rest {
        [b'0', b'x' | b'X', digits @ ..] => number(digits, "0x", b'p', u8::is_ascii_hexdigit)?,
        digits => number(digits, "", b'e', u8::is_ascii_digit)?,
    };
    Some(sign(magnitude))
}

/// Reads `digits[.digits][exponent]`, whose digits are those that `is_digit` knows.
fn number(text: &[u8], prefix: &str, mark: u8, is_digit: fn(&u8) -> bool) -> Option<LongDouble> {
    let mantissa_len = text
        .iter()
        .position(|byte| !is_digit(byte) && *byte != b'.')
        .unwrap_or(text.len());
    let (mantissa, exponent) = text.split_at(mantissa_len);
    let points = mantissa.iter().filter(|&&byte| byte == b'.').count();
    if points > 1 || points == mantissa.len() {
        return None;
    }
    let exponent = match exponent {
        [] => 0,
        [first, exponent @ ..] if first.eq_ignore_ascii_case(&mark) => self::exponent(exponent)?,
        _ => return None,
    };
    if mantissa.iter().all(|byte| matches!(byte, b'0' | b'.')) {
        return Some(LongDouble::ZERO);
    }
    if exponent.abs() > EXPONENT_MAX {
        return None;
    }
    let mantissa = std::str::from_utf8(mantissa).ok()?;
    let clean = format!(
        "{prefix}0{mantissa}{mark}{exponent}",
        mark = char::from(mark)
    );
    let parsed = LongDouble::from_str_r(&clean, Round::NearestTiesToEven).ok()?;
    let is_too_large = parsed.status.contains(Status::OVERFLOW);
    (!is_too_large && !parsed.value.is_zero() && parsed.value.is_finite()).then_some(parsed.value)
}

/// A signed decimal, held within what matters.
fn exponent(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        [b'-', digits @ ..] => (-1, digits),
        [b'+', digits @ ..] => (1, digits),
        digits => (1, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0i64, |value, digit| {
        (value * 10 + i64::from(digit - b'0')).min(EXPONENT_MAX + 1)
    });
    Some(sign * value)
}

/// The sum, rounded to 80 bits; none when it is infinite or not a number.
pub fn sum(a: LongDouble, b: LongDouble) -> Option<LongDouble> {
    let sum = (a + b).value;
    sum.is_finite().then_some(sum)
}

/// A finite number with up to 17 decimals, never in exponent notation.
pub fn format(value: LongDouble) -> String {
    let bits = value.to_bits();
    let mantissa = bits as u64;
    let exponent = ((bits >> 64) as i32 & 0x7fff).max(1) - BIAS;
    let (whole, decimals) = if exponent >= 0 {
        (shifted(mantissa, exponent as u32), 0)
    } else {
        let (whole, decimals) = rounded(mantissa, exponent.unsigned_abs());
        (whole.to_string(), decimals)
    };
    let mut text = if decimals == 0 {
        whole
    } else {
        let padded = format!("{whole}.{decimals:017}");
        padded.trim_end_matches('0').to_owned()
    };
    if value.is_negative() && text != "0" {
        text.insert(0, '-');
    }
    text
}

/// `mantissa / 2^shift` as whole and 10^-17ths, rounded to the nearest, halves to even.
fn rounded(mantissa: u64, shift: u32) -> (u128, u128) {
    let scale = 10u128.pow(DECIMALS);
    // Below 2^121, so that nothing is lost.
    let scaled = u128::from(mantissa) * scale;
    let mut ticks = scaled.checked_shr(shift).unwrap_or(0);
    let rest = scaled - ticks.checked_shl(shift).unwrap_or(0);
    if let Some(half) = 1u128.checked_shl(shift - 1) {
        let is_odd = ticks & 1 == 1;
        ticks += u128::from(rest > half || (rest == half && is_odd));
    }
    (ticks / scale, ticks % scale)
}

/// `mantissa * 2^shift` in decimal.
fn shifted(mantissa: u64, shift: u32) -> String {
    const CHUNK: u128 = 10u128.pow(18);
    // Little-endian digits to the base 2^64.
    let mut limbs = vec![0u64; (shift / 64) as usize];
    let wide = u128::from(mantissa) << (shift % 64);
    limbs.extend([wide as u64, (wide >> 64) as u64]);
    let mut chunks = Vec::new();
    while limbs.last() == Some(&0) {
        limbs.pop();
    }
    while !limbs.is_empty() {
        let mut rest = 0;
        for limb in limbs.iter_mut().rev() {
            let value = rest << 64 | u128::from(*limb);
            *limb = (value / CHUNK) as u64;
            rest = value % CHUNK;
        }
        chunks.push(rest);
        while limbs.last() == Some(&0) {
            limbs.pop();
        }
    }
    let mut text = chunks.pop().unwrap_or(0).to_string();
    text.extend(chunks.iter().rev().map(|chunk| format!("{chunk:018}")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Redis 7.0.15 on x86-64 answers to INCRBYFLOAT of the text by 0 and by 0.1.
    #[test]
    fn text_goes_in_and_out_as_in_redis() {
        for (text, plain, and_a_tenth) in [
            ("1", "1", "1.1"),
            ("+1", "1", "1.1"),
            ("-1", "-1", "-0.9"),
            ("0x10", "16", "16.1"),
            ("0X1.8p1", "3", "3.1"),
            ("0x.8", "0.5", "0.6"),
            ("0x1.p1", "2", "2.1"),
            ("0x1P+2", "4", "4.1"),
            ("1e5", "100000", "100000.10000000000000142"),
            ("1E-2", "0.01", "0.11"),
            ("5.", "5", "5.1"),
            (".5", "0.5", "0.6"),
            ("-.5", "-0.5", "-0.4"),
            ("1.e2", "100", "100.1"),
            ("3.0e3", "3000", "3000.10000000000000009"),
            ("0e99999999999999999999", "0", "0.1"),
            ("1e-4950", "0", "0.1"),
            ("3e-4951", "0", "0.1"),
            ("0x1p-16445", "0", "0.1"),
            ("0x0p99999999999", "0", "0.1"),
            ("-0", "0", "0.1"),
            ("-1e-30", "0", "0.1"),
            (
                "0.00000000000000001",
                "0.00000000000000001",
                "0.10000000000000001",
            ),
            ("0.000000000000000005", "0", "0.10000000000000001"),
            (
                "0.000000000000000015",
                "0.00000000000000002",
                "0.10000000000000002",
            ),
            (
                "123456789012345678901234567890",
                "123456789012345678899921813504",
                "123456789012345678899921813504",
            ),
            (
                "0x1.921fb54442d18p+1",
                "3.14159265358979312",
                "3.24159265358979312",
            ),
            (
                "9223372036854775807",
                "9223372036854775807",
                "9223372036854775807",
            ),
            (
                "1e30",
                "1000000000000000000024696061952",
                "1000000000000000000024696061952",
            ),
        ] {
            let value = parse(text.as_bytes()).expect(text);
            assert_eq!(format(value), plain, "{text}");
            let tenth = parse(b"0.1").expect("a float");
            assert_eq!(
                format(sum(value, tenth).expect("finite")),
                and_a_tenth,
                "{text} + 0.1"
            );
        }
        let long = format(parse(b"1e4932").expect("finite"));
        assert!(long.starts_with("100000000000000000000601894938796") && long.len() == 4933);
    }

    #[test]
    fn what_redis_refuses_is_refused() {
        for text in [
            "",
            " 1",
            "1 ",
            "\t1",
            "infi",
            "nan",
            "-nan",
            "nan(1)",
            "0x",
            "0x1p",
            "0xp1",
            "1e",
            "1e+",
            ".",
            "1_0",
            "1,0",
            "1e4933",
            "1.18973149535723176509e4932",
            "1e-4951",
            "1e-99999999999999999999",
            "1e99999999999999999999",
            "0x1p16384",
            "0x1p-16446",
            "--1",
            "+-1",
            "1\0",
            "0b1",
            "1f",
            "1L",
        ] {
            assert!(!is_float(text.as_bytes()), "{text:?}");
        }
        assert!(!is_float(&[b'1'; TEXT_BYTES_MAX + 1]));
        assert!(
            !is_float(&[b'1'; TEXT_BYTES_MAX]),
            "too large, not too long"
        );
        assert!(is_float(&[b'0'; TEXT_BYTES_MAX]));
    }

    #[test]
    fn infinities_are_numbers_until_they_are_added() {
        for text in ["inf", "-inf", "+inf", "INF", "infinity", "Infinity"] {
            let value = parse(text.as_bytes()).expect(text);
            assert!(
                sum(value, parse(b"1").expect("a float")).is_none(),
                "{text}"
            );
        }
    }
}
