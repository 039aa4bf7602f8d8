//! The `Connection` field: which other fields belong to one hop only (RFC 9110 §7.6.1).

use http::{HeaderMap, header};

/// Every option of every `Connection` field line, as written; reading only the first line is a known bypass.
pub(crate) fn connection_options(headers: &HeaderMap) -> Vec<Box<str>> {
    let mut options = Vec::new();
    for line in headers.get_all(header::CONNECTION) {
        // An option that is not text cannot name a field, so nothing is lost by passing over it.
        for option in String::from_utf8_lossy(line.as_bytes()).split(',') {
            let option = option.trim_matches([' ', '\t']);
            if !option.is_empty() {
                options.push(option.into());
            }
        }
    }
    options
}
