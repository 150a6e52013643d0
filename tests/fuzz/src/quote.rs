//! Quoting: whatever is written quoted reads back as it was; whatever is read does no harm.
#![no_main]

use libfuzzer_sys::fuzz_target;
use marline::wire::quote::{double_quoted, quoted, split_line};

fuzz_target!(|data: &[u8]| {
    let (mut text, mut ranges) = (Vec::new(), Vec::new());
    if split_line(data, &mut text, &mut ranges).is_ok() {
        assert!(
            ranges
                .iter()
                .all(|range| range.start <= range.end && range.end <= text.len())
        );
        assert!(text.len() <= data.len(), "unquoting made it longer");
    }
    // The bytes between zeros are arguments of one line.
    let arguments: Vec<&[u8]> = data.split(|&byte| byte == 0).collect();
    for write in [quoted, double_quoted] {
        let mut line = Vec::new();
        for argument in &arguments {
            write(argument, &mut line);
            line.push(b' ');
        }
        assert!(
            !line.contains(&b'\n') && !line.contains(&b'\r'),
            "more than a line"
        );
        assert!(std::str::from_utf8(&line).is_ok(), "not readable");
        split_line(&line, &mut text, &mut ranges).expect("what was quoted can be read");
        let read: Vec<&[u8]> = ranges.iter().map(|range| &text[range.clone()]).collect();
        assert_eq!(read, arguments);
    }
});
