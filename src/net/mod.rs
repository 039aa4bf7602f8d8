//! Addresses, names and targets as values. Nothing here does I/O.

mod cidr;
mod class;
#[cfg(feature = "proxy")]
mod fields;
mod host;
mod target;

pub use cidr::{CidrSet, parse_cidr};
pub use class::{AddressClass, IANA_REGISTRY_DATE, classify, nat64_inner, unwrap_mapped};
#[cfg(feature = "proxy")]
pub(crate) use fields::{belongs_in_head, connection_options, is_hop_by_hop, is_identity, speaks_for_our_origin};
pub use host::{Host, Name};
pub(crate) use target::parse_origin;
pub use target::{MAX_HOST_LEN, MAX_URL_LEN, Origin, Scheme, Target, TargetError, TargetStyle};
