//! Single-use tickets in memory.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    Secret,
    clock::{Clock, SystemClock},
    net::Origin,
    tokens::{Lookup, Principal, TicketStore},
};

/// Longest life of a ticket.
const MAX_LIFE: Duration = Duration::from_secs(30);
/// Most open tickets of one principal.
const MAX_PER_PRINCIPAL: usize = 100;

/// A ticket that was just issued.
#[derive(Debug)]
#[non_exhaustive]
pub struct Ticket {
    /// What the client puts into the query of its next request. To be used once.
    pub secret: Secret,
    /// How long it is good for.
    pub expires_in: Duration,
}

/// There are too many open tickets: of this principal, or of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TicketsFull;

impl fmt::Display for TicketsFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many tickets are open")
    }
}

impl std::error::Error for TicketsFull {}

/// Single-use tickets in memory: a browser that can set no field on a WebSocket gets one with its token and opens the socket with
/// it. Each is bound to the token and to one target origin, good for at most 30 seconds, and gone once it is used.
#[derive(Clone)]
pub struct MemoryTickets(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    capacity: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    tickets: HashMap<[u8; 32], (Principal, Duration)>,
    /// In the order of their end.
    queue: VecDeque<([u8; 32], Duration)>,
    per_principal: HashMap<Arc<str>, usize>,
}

impl MemoryTickets {
    /// At most `capacity` open tickets.
    #[must_use]
    pub fn bounded(capacity: usize) -> Self {
        Self::with_clock(capacity, SystemClock)
    }

    /// The same with another clock.
    #[must_use]
    pub fn with_clock(capacity: usize, clock: impl Clock) -> Self {
        Self(Arc::new(Inner { clock: Arc::new(clock), capacity, open: Mutex::default() }))
    }

    /// Issues a ticket for one origin (for `ws` and `http` alike) to whoever has shown a token.
    ///
    /// # Errors
    /// If too many are open, or the system has no randomness.
    pub fn issue(&self, principal: &Principal, target: &Arc<Origin>) -> Result<Ticket, TicketsFull> {
        let mut random = Zeroizing::new([0_u8; 24]);
        getrandom::fill(random.as_mut()).map_err(|_| TicketsFull)?;
        let secret = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(random.as_ref()));
        let now = self.0.clock.monotonic();
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.drop_expired(now);
        let count = open.per_principal.get(principal.id()).copied().unwrap_or_default();
        if open.tickets.len() >= self.0.capacity || count >= MAX_PER_PRINCIPAL {
            return Err(TicketsFull);
        }
        let digest = Sha256::digest(secret.as_bytes()).into();
        let end = now + MAX_LIFE;
        let narrowed = principal.clone().with_scopes(principal.scopes().clone().bound_to(Arc::clone(target)));
        *open.per_principal.entry(Arc::clone(principal.id())).or_default() += 1;
        open.tickets.insert(digest, (narrowed, end));
        open.queue.push_back((digest, end));
        Ok(Ticket { secret: Secret::new(secret.as_str()), expires_in: MAX_LIFE })
    }
}

impl Open {
    fn take(&mut self, digest: &[u8; 32]) -> Option<(Principal, Duration)> {
        let (principal, end) = self.tickets.remove(digest)?;
        if let Some(count) = self.per_principal.get_mut(principal.id()) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.per_principal.remove(principal.id());
            }
        }
        Some((principal, end))
    }

    fn drop_expired(&mut self, now: Duration) {
        while self.queue.front().is_some_and(|(_, end)| *end <= now) {
            if let Some((digest, _)) = self.queue.pop_front() {
                self.take(&digest);
            }
        }
        // Used tickets leave their place in the queue behind; it may not outgrow the tickets by more than it costs to sweep.
        if self.queue.len() > 2 * self.tickets.len() + 64 {
            let tickets = &self.tickets;
            self.queue.retain(|(digest, _)| tickets.contains_key(digest));
        }
    }
}

impl TicketStore for MemoryTickets {
    fn redeem(&self, ticket: &[u8]) -> Lookup<Principal> {
        let digest = Sha256::digest(ticket).into();
        let now = self.0.clock.monotonic();
        let found = self.0.open.lock().unwrap_or_else(PoisonError::into_inner).take(&digest);
        Lookup::Ready(Ok(found.filter(|(_, end)| now < *end).map(|(principal, _)| principal)))
    }
}

impl fmt::Debug for MemoryTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTickets").field("capacity", &self.0.capacity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::ManualClock, net::Target, tokens::TokenScopes};

    fn origin(text: &str) -> Arc<Origin> {
        Arc::clone(Target::parse(text).unwrap().origin())
    }

    fn redeem(tickets: &MemoryTickets, ticket: &Ticket) -> Option<Principal> {
        let Lookup::Ready(Ok(found)) = tickets.redeem(ticket.secret.expose().as_bytes()) else { unreachable!() };
        found
    }

    #[test]
    fn a_ticket_is_good_once_for_one_origin_and_for_thirty_seconds() {
        let clock = ManualClock::default();
        let tickets = MemoryTickets::with_clock(10, clock.clone());
        let ci = Principal::new("ci").with_scopes(TokenScopes::new().targets(["*.example"]).unwrap());
        let ticket = tickets.issue(&ci, &origin("wss://a.example/")).unwrap();
        assert!(!format!("{ticket:?}").contains(ticket.secret.expose()));
        let principal = redeem(&tickets, &ticket).unwrap();
        assert_eq!(&**principal.id(), "ci");
        assert!(principal.scopes().allows_target(&Target::parse("https://a.example/x").unwrap()));
        assert!(!principal.scopes().allows_target(&Target::parse("https://b.example/x").unwrap()));
        assert!(redeem(&tickets, &ticket).is_none(), "used");
        let ticket = tickets.issue(&ci, &origin("wss://a.example/")).unwrap();
        clock.advance(Duration::from_secs(30));
        assert!(redeem(&tickets, &ticket).is_none(), "expired");
        let foreign = tickets.issue(&ci, &origin("wss://elsewhere.test/")).unwrap();
        let bound = redeem(&tickets, &foreign).unwrap();
        assert!(
            !bound.scopes().allows_target(&Target::parse("wss://elsewhere.test/").unwrap()),
            "the token's scopes hold as well"
        );
    }

    #[test]
    fn tickets_are_bounded_by_principal_and_in_all() {
        let clock = ManualClock::default();
        let tickets = MemoryTickets::with_clock(150, clock.clone());
        let (greedy, other, a) = (Principal::new("greedy"), Principal::new("other"), origin("https://a.example/"));
        for _ in 0..MAX_PER_PRINCIPAL {
            tickets.issue(&greedy, &a).unwrap();
        }
        assert_eq!(tickets.issue(&greedy, &a).unwrap_err(), TicketsFull);
        for _ in 0..50 {
            tickets.issue(&other, &a).unwrap();
        }
        assert_eq!(tickets.issue(&other, &a).unwrap_err(), TicketsFull);
        clock.advance(Duration::from_secs(31));
        for _ in 0..1000 {
            let ticket = tickets.issue(&greedy, &a).unwrap();
            assert!(redeem(&tickets, &ticket).is_some());
        }
        let open = tickets.0.open.lock().unwrap();
        assert!(open.tickets.is_empty() && open.per_principal.is_empty() && open.queue.len() < 200);
    }
}
