//! Numbers and parts of messages as bytes, for those who read and write them without a formatter in between. Nothing is allocated.

#[cfg(feature = "proxy")]
mod line;
mod list;
mod number;

#[cfg(feature = "proxy")]
pub(crate) use line::{chunk_size, content_length, field, last_chunk};
pub(crate) use list::{field_has_token, has_token, members};
#[cfg(feature = "proxy")]
pub(crate) use number::read_decimal;
pub(crate) use number::{decimal, pair, push_decimal};
