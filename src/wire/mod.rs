//! Numbers as bytes, for those who write messages and lines themselves: nothing is allocated, and no formatter stands in between.

mod number;

pub(crate) use number::{decimal, pair, push_decimal};
