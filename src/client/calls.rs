//! The everyday commands, with Rust's types for their arguments and replies. Every other command is one
//! [`Client::call`] away.

use std::time::Duration;

use super::Client;
use super::error::{Cause, Error};
use crate::wire::decode::Value;

/// The errors of these are those of [`Client::call`]; beside them [`Cause::Unexpected`], the outcome being
/// unknown, where the reply is of another type than the command has.
impl Client {
    /// The value of `key`, if there is one.
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.ask(&[b"GET", key.as_ref()], text)
    }

    /// Gives `key` a value. What it had is gone, its expiry too.
    pub fn set(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.ask(&[b"SET", key.as_ref(), value.as_ref()], status)
    }

    /// Deletes `keys`; how many there were.
    pub fn del<K: AsRef<[u8]>>(&mut self, keys: &[K]) -> Result<i64, Error> {
        self.ask(&named(b"DEL", keys), integer)
    }

    /// How many of `keys` there are. A key that is named twice counts twice.
    pub fn exists<K: AsRef<[u8]>>(&mut self, keys: &[K]) -> Result<i64, Error> {
        self.ask(&named(b"EXISTS", keys), integer)
    }

    /// Adds one to the integer at `key`, 0 if there is none; the result.
    pub fn incr(&mut self, key: impl AsRef<[u8]>) -> Result<i64, Error> {
        self.ask(&[b"INCR", key.as_ref()], integer)
    }

    /// Lets `key` live for `lifetime` from now on, in whole milliseconds; whether there is such a key.
    pub fn expire(&mut self, key: impl AsRef<[u8]>, lifetime: Duration) -> Result<bool, Error> {
        let ms = lifetime.as_millis().to_string();
        self.ask(&[b"PEXPIRE", key.as_ref(), ms.as_bytes()], truth)
    }

    /// The values of `keys`, in their order.
    pub fn mget<K: AsRef<[u8]>>(&mut self, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.ask(&named(b"MGET", keys), texts)
    }

    /// Gives each key its value, all of them at once.
    pub fn mset<K: AsRef<[u8]>, V: AsRef<[u8]>>(&mut self, pairs: &[(K, V)]) -> Result<(), Error> {
        let words = pairs
            .iter()
            .flat_map(|(key, value)| [key.as_ref(), value.as_ref()]);
        let args: Vec<&[u8]> = std::iter::once(&b"MSET"[..]).chain(words).collect();
        self.ask(&args, status)
    }

    /// Whether a node answers.
    pub fn ping(&mut self) -> Result<(), Error> {
        self.ask(&[b"PING"], status)
    }

    fn ask<T>(&mut self, args: &[&[u8]], read: Reading<T>) -> Result<T, Error> {
        let value = self.call(args)?;
        read(value).map_err(|value| Error::unknown(self.node(), Cause::Unexpected(value)))
    }
}

/// Makes a reply a Rust value, or gives it back if it is of another type.
type Reading<T> = fn(Value) -> Result<T, Value>;

fn named<'a, K: AsRef<[u8]>>(name: &'a [u8], keys: &'a [K]) -> Vec<&'a [u8]> {
    let keys = keys.iter().map(AsRef::as_ref);
    std::iter::once(name).chain(keys).collect()
}

fn text(value: Value) -> Result<Option<Vec<u8>>, Value> {
    match value {
        Value::Bulk(text) => Ok(Some(text)),
        Value::Nil => Ok(None),
        other => Err(other),
    }
}

fn texts(value: Value) -> Result<Vec<Option<Vec<u8>>>, Value> {
    match value {
        Value::Array(values) => values.into_iter().map(text).collect(),
        other => Err(other),
    }
}

fn status(value: Value) -> Result<(), Value> {
    match value {
        Value::Simple(_) => Ok(()),
        other => Err(other),
    }
}

fn integer(value: Value) -> Result<i64, Value> {
    match value {
        Value::Int(number) => Ok(number),
        other => Err(other),
    }
}

fn truth(value: Value) -> Result<bool, Value> {
    integer(value).map(|number| number != 0)
}
