//! Times of day as text: `2026-11-23T20:10:00Z`, RFC 3339 in UTC and whole seconds, years 1970 to 9999.
//!
//! The calendar is Howard Hinnant's ("chrono-compatible low-level date algorithms"): years that begin in March,
//! so that the leap day is the last one, in eras of 400 years.

const DAY_S: u64 = 86_400;
const ERA_DAYS: u64 = 146_097;
/// Days from the first of March of the year 0 to the first of January 1970.
const EPOCH_DAYS: u64 = 719_468;
/// 9999-12-31T23:59:59Z.
const LAST_S: u64 = 253_402_300_799;

/// The second that unix milliseconds fall into. After the year 9999: its last second.
pub fn text(at_ms: u64) -> String {
    let seconds = (at_ms / 1000).min(LAST_S);
    let (days, second) = (seconds / DAY_S + EPOCH_DAYS, seconds % DAY_S);
    let (era, day) = (days / ERA_DAYS, days % ERA_DAYS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let day = day - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Unix milliseconds of a text as [`text`] makes it; `None` for any other.
pub fn ms(written: &str) -> Option<u64> {
    let number = |from: usize, to: usize| written.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if year < 1970 || month == 0 || month > 12 || day == 0 {
        return None;
    }
    let march_year = year - u64::from(month <= 2);
    let (era, year) = (march_year / 400, march_year % 400);
    let march = if month > 2 { month - 3 } else { month + 9 };
    let day = 365 * year + year / 4 - year / 100 + (153 * march + 2) / 5 + day - 1;
    let days = (era * ERA_DAYS + day).checked_sub(EPOCH_DAYS)?;
    let at_ms = (days * DAY_S + hour * 3600 + minute * 60 + second) * 1000;
    // The 30th of February, 25 o'clock and a sign in front of a number come back as another text.
    (text(at_ms) == written).then_some(at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (at_s, written) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_795_464_600, "2026-11-23T20:10:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (LAST_S, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(text(at_s * 1000 + 999), written);
            assert_eq!(ms(written), Some(at_s * 1000), "{written}");
        }
        assert_eq!(text(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn every_day_comes_back() {
        for day in 0..LAST_S / DAY_S {
            let at_ms = (day * DAY_S + day % DAY_S) * 1000;
            assert_eq!(ms(&text(at_ms)), Some(at_ms), "day {day}");
        }
    }

    #[test]
    fn other_texts_are_no_times() {
        for written in [
            "",
            "2026-11-23",
            "2026-11-23T20:10:00",
            "2026-11-23T20:10:00z",
            "2026-11-23 20:10:00Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "1969-12-31T23:59:59Z",
            "+026-01-01T00:00:00Z",
            "2026-01-01T00:00:00Zé",
            "202é-01-01T00:00:00Z",
        ] {
            assert_eq!(ms(written), None, "{written}");
        }
    }
}
