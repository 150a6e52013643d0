//! stub
#![allow(missing_docs, clippy::todo, unused)]
use crate::command::op::*; use crate::wire::reply::Reply;
#[derive(Clone, Copy)]
pub struct HashSeed(pub u64, pub u64);
pub struct Dropped;
pub struct Entry<'a> { pub value: &'a [u8], pub expire_at_ms: Option<u64>, pub encoding: Encoding }
pub struct Store;
impl Store {
  pub fn new(_s: HashSeed) -> Store { Store }
  pub fn apply(&mut self, op: &Op<'_>, at_ms: u64, reply: &mut Reply<'_>) -> Effect { todo!() }
  pub fn lookup(&self, key: &[u8], at_ms: u64) -> Option<Entry<'_>> { todo!() }
  pub fn len(&self) -> usize { 0 } pub fn expiring(&self) -> usize { 0 } pub fn memory_bytes(&self) -> usize { 0 }
  pub fn scan(&self, cursor: u64, count: usize, at_ms: u64, found: &mut dyn FnMut(&[u8])) -> u64 { 0 }
  pub fn for_each(&self, at_ms: u64, f: &mut dyn FnMut(&[u8], Entry<'_>)) {}
  pub fn random_key(&self, random: u64, at_ms: u64) -> Option<&[u8]> { None }
  pub fn sweep(&mut self, at_ms: u64, tables_max: usize, removed: &mut dyn FnMut(&[u8])) -> usize { 0 }
  pub fn clear(&mut self) -> Dropped { Dropped }
}
