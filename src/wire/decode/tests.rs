//! The decoder against every kind of value, every cut of the input and every kind of error.

use super::*;

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

const SAMPLE: &[u8] = b"+OK\r\n-ERR no\r\n:-12\r\n:+7\r\n$5\r\na\r\nbc\r\n$0\r\n\r\n$-1\r\n*-1\r\n_\r\n\
    *3\r\n:1\r\n*0\r\n*2\r\n$1\r\nx\r\n%1\r\n+k\r\n~1\r\n#t\r\n|1\r\n+ttl\r\n:9\r\n,1.50\r\n,-inf\r\n\
    #f\r\n=8\r\ntxt:text\r\n(-123456789012345678901234567890\r\n!8\r\nERR a\r\nb\r\n>2\r\n\
    $7\r\nmessage\r\n|0\r\n|1\r\n*1\r\n+a\r\n%0\r\n$1\r\nm\r\n%0\r\n";

fn sample() -> Vec<Value> {
    vec![
        Value::Simple(b"OK".to_vec()),
        Value::Error(b"ERR no".to_vec()),
        Value::Int(-12),
        Value::Int(7),
        bulk("a\r\nbc"),
        bulk(""),
        Value::Nil,
        Value::Nil,
        Value::Nil,
        Value::Array(vec![
            Value::Int(1),
            Value::Array(vec![]),
            Value::Array(vec![
                bulk("x"),
                Value::Map(vec![(
                    Value::Simple(b"k".to_vec()),
                    Value::Set(vec![Value::Boolean(true)]),
                )]),
            ]),
        ]),
        Value::Double(b"1.50".to_vec()),
        Value::Double(b"-inf".to_vec()),
        Value::Boolean(false),
        Value::Verbatim {
            format: *b"txt",
            text: b"text".to_vec(),
        },
        Value::BigNumber(b"-123456789012345678901234567890".to_vec()),
        Value::Error(b"ERR a\r\nb".to_vec()),
        Value::Push(vec![bulk("message"), bulk("m")]),
        Value::Map(vec![]),
    ]
}

fn drain(decoder: &mut Decoder, into: &mut Vec<Value>) {
    while let Some(value) = decoder.next_value().expect("RESP") {
        into.push(value);
    }
}

#[test]
fn values_are_the_same_however_the_input_is_cut() {
    for cut in 0..=SAMPLE.len() {
        let (mut decoder, mut values) = (Decoder::new(Limits::default()), Vec::new());
        for part in [&SAMPLE[..cut], &SAMPLE[cut..]] {
            decoder.feed(part);
            drain(&mut decoder, &mut values);
        }
        assert_eq!(values, sample(), "cut at {cut}");
        assert!(decoder.is_between_values());
    }
    let (mut decoder, mut values) = (Decoder::default(), Vec::new());
    for byte in SAMPLE {
        decoder.feed(&[*byte]);
        drain(&mut decoder, &mut values);
    }
    assert_eq!(values, sample(), "byte by byte");
}

#[test]
fn errors_are_named_and_last() {
    let limits = Limits {
        depth_max: 2,
        line_bytes_max: 64,
        text_bytes_max: 10,
        elements_max: 3,
    };
    let long_line = [b'+'; 70];
    for (input, want) in [
        (&b"?what\r\n"[..], DecodeError::UnknownType(b'?')),
        (b"\r\n", DecodeError::UnknownType(b'\r')),
        (b"+OK\n", DecodeError::BareNewline),
        (b"$2\r\nabc\r\n", DecodeError::TextNotEnded),
        (b"$-2\r\n", DecodeError::BadLength),
        (b"$?\r\n", DecodeError::BadLength),
        (b"%-1\r\n", DecodeError::BadLength),
        (b"*99999999999999999999\r\n", DecodeError::BadLength),
        (b":1.5\r\n", DecodeError::BadInteger),
        (b":+-1\r\n", DecodeError::BadInteger),
        (b"#x\r\n", DecodeError::BadBoolean),
        (b"_x\r\n", DecodeError::BadNil),
        (b",x\r\n", DecodeError::BadDouble),
        (b"(12x\r\n", DecodeError::BadBigNumber),
        (b"=2\r\nab\r\n", DecodeError::BadVerbatim),
        (&long_line, DecodeError::LineTooLong),
        (b"$11\r\n", DecodeError::TextTooLong),
        (b"*4\r\n", DecodeError::TooManyElements),
        (b"*1\r\n*1\r\n*1\r\n", DecodeError::TooDeep),
    ] {
        let mut decoder = Decoder::new(limits);
        decoder.feed(input);
        assert_eq!(decoder.next_value(), Err(want), "{}", input.escape_ascii());
        decoder.feed(b"+OK\r\n");
        assert_eq!(decoder.next_value(), Err(want), "no way back");
        assert!(!want.to_string().is_empty());
    }
}

#[test]
fn lengths_do_not_allocate_and_texts_are_not_rescanned() {
    let mut decoder = Decoder::default();
    decoder.feed(b"*200000000\r\n*200000000\r\n$500000000\r\n");
    assert_eq!(decoder.next_value(), Ok(None));
    let reserved: usize = decoder
        .open
        .iter()
        .map(|open| open.elements.capacity())
        .sum();
    assert!(reserved <= 2 * ELEMENTS_RESERVED_MAX);

    let mut decoder = Decoder::default();
    decoder.feed(b"$30000000\r\n");
    let chunk = vec![b'\n'; 10_000];
    for _ in 0..3000 {
        assert_eq!(decoder.next_value(), Ok(None));
        assert_eq!(decoder.at, decoder.input.len(), "what came in was moved on");
        decoder.feed(&chunk);
        assert_eq!(decoder.input.len(), chunk.len());
    }
    decoder.feed(b"\r\n");
    let whole = decoder.next_value().expect("RESP");
    assert!(matches!(whole, Some(Value::Bulk(text)) if text.len() == 30_000_000));
}

#[test]
fn another_language_can_take_over() {
    let mut decoder = Decoder::default();
    decoder.feed(b"+OK\r\n{\"a\":1}\n");
    assert_eq!(
        decoder.next_value(),
        Ok(Some(Value::Simple(b"OK".to_vec())))
    );
    assert_eq!(decoder.take_unread(), b"{\"a\":1}\n");
    decoder.feed(b":1\r\n");
    assert_eq!(decoder.next_value(), Ok(Some(Value::Int(1))));
}
