//! denial_floor
