//! Arguments -> request bytes, for whoever is the client.
//!
//! A request is a RESP array of bulk strings, so that any bytes may stand in an argument. Inline lines are
//! for people and deliberately absent here.

/// Appends a request of `args` to `out`.
pub fn encode_request<A: AsRef<[u8]>>(args: &[A], out: &mut Vec<u8>) {
    header(b'*', args.len(), out);
    for arg in args {
        let arg = arg.as_ref();
        header(b'$', arg.len(), out);
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

fn header(mark: u8, number: usize, out: &mut Vec<u8>) {
    out.push(mark);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_may_stand_in_an_argument() {
        let mut out = Vec::new();
        encode_request(&["SET", "", "a\r\nb"], &mut out);
        encode_request::<&str>(&[], &mut out);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\na\r\nb\r\n*0\r\n");
    }
}
