//! Numbers, lists and lines as bytes, for those who read and write messages without a formatter in between, and what waits for a
//! socket.

#[cfg(feature = "proxy")]
mod line;
mod list;
#[cfg(feature = "proxy")]
mod names;
mod number;
#[cfg(feature = "proxy")]
mod outbox;

#[cfg(feature = "proxy")]
pub(crate) use line::{chunk_size, content_length, field, last_chunk};
pub(crate) use list::{field_has_token, has_token, members};
#[cfg(feature = "proxy")]
pub(crate) use names::field_name;
pub(crate) use number::{four_digits, pair, push_block, push_decimal, read_decimal};
#[cfg(feature = "proxy")]
pub(crate) use outbox::{Outbox, TOGETHER};
