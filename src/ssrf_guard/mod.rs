//! ssrf_guard
