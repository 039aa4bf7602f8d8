//! client_allow
