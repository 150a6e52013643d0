//! Dumps of Redis: any bytes are read to an end or an error, alike in whichever pieces they come.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use marline::cli::rdb::{Event, Rdb, RdbError, Value};

/// LZF packs at best 264 bytes into 3.
const UNPACKED_MAX: usize = 88;

struct Trickle<'b>(&'b [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let most = into.len().min(3);
        self.0.read(&mut into[..most])
    }
}

fn read(source: impl Read) -> Result<Vec<Event>, RdbError> {
    let mut rdb = Rdb::new(source)?;
    let mut events = Vec::new();
    while let Some(event) = rdb.next_event()? {
        events.push(event);
    }
    Ok(events)
}

fuzz_target!(|data: &[u8]| {
    let read_at_once = read(data);
    assert_eq!(read_at_once, read(Trickle(data)), "the pieces matter");
    match read_at_once {
        Ok(events) => {
            for event in events {
                if let Event::Key(key) = event
                    && let Value::String(value) = key.value
                {
                    let most = data.len() * UNPACKED_MAX;
                    assert!(key.name.len() + value.len() <= most, "more than there is");
                }
            }
        }
        Err(error) => assert!(error.offset <= data.len() as u64, "{error}"),
    }
});
