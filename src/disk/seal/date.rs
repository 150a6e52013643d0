//! Times of day as text: `2026-11-23T20:10:00Z`, RFC 3339 in UTC and whole seconds, years 1970 to 9999.

use jiff::SignedDuration;
use jiff::civil::DateTime;

const FORMAT: &str = "%Y-%m-%dT%H:%M:%SZ";
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
/// 9999-12-31T23:59:59Z.
const LAST_S: i64 = 253_402_300_799;

/// The second that unix milliseconds fall into. After the year 9999: its last second.
pub fn text(at_ms: u64) -> String {
    let seconds = i64::try_from(at_ms / 1000).map_or(LAST_S, |seconds| seconds.min(LAST_S));
    (EPOCH + SignedDuration::from_secs(seconds))
        .strftime(FORMAT)
        .to_string()
}

/// Unix milliseconds of a text as [`text`] makes it; `None` for any other.
pub fn ms(written: &str) -> Option<u64> {
    let time = DateTime::strptime(FORMAT, written).ok()?;
    let at_ms = u64::try_from(time.duration_since(EPOCH).as_secs()).ok()? * 1000;
    // What a reader lets pass, a sign in front of a number for one, comes back as another text.
    (text(at_ms) == written).then_some(at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_S: u64 = 86_400;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (at_s, written) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_795_464_600, "2026-11-23T20:10:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (LAST_S as u64, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(text(at_s * 1000 + 999), written);
            assert_eq!(ms(written), Some(at_s * 1000), "{written}");
        }
        assert_eq!(text(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn every_day_comes_back() {
        for day in 0..LAST_S as u64 / DAY_S {
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
