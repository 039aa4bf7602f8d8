//! client_addr
