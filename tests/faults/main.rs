//! What happens when targets, clients or this server itself misbehave or go away: real sockets on loopback, the whole stack.
#![allow(unreachable_pub)]

mod drain;
mod http2;
mod leaving;
mod matrix;
mod overload;
mod slow;
mod support;
mod uploads;
