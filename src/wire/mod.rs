//! Numbers and parts of messages as bytes, for those who read and write them without a formatter in between. Nothing is allocated.

mod list;
mod number;

pub(crate) use list::{field_has_token, has_token, members};
pub(crate) use number::{decimal, pair, push_decimal};
