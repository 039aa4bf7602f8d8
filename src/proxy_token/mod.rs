//! proxy_token
