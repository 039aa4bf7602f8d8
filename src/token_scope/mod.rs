//! token_scope
