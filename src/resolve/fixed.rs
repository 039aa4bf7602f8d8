//! Resolvers with known answers: for tests, and for tools that are handed the answers.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use super::{Answers, Resolve, ResolveError, Resolving};
use crate::net::Name;

fn answer(addrs: Option<&Vec<IpAddr>>) -> Result<Answers, ResolveError> {
    match addrs {
        Some(addrs) if !addrs.is_empty() => Ok(Answers::new(addrs.clone(), Duration::ZERO)),
        _ => Err(ResolveError::NoSuchName),
    }
}

/// The same addresses for every name; none means that no name exists.
#[derive(Clone, Debug, Default)]
pub struct FixedResolver(Vec<IpAddr>);

impl FixedResolver {
    /// Answers with these.
    pub fn new(addrs: impl IntoIterator<Item = IpAddr>) -> Self {
        Self(addrs.into_iter().collect())
    }
}

impl Resolve for FixedResolver {
    fn resolve<'a>(&'a self, _: &'a Name) -> Resolving<'a> {
        Box::pin(std::future::ready(answer(Some(&self.0))))
    }
}

/// Addresses by name; other names do not exist.
#[derive(Clone, Debug, Default)]
pub struct MapResolver(HashMap<Box<str>, Vec<IpAddr>>);

impl MapResolver {
    /// A name and its addresses. The name is lower case, without a root dot.
    #[must_use]
    pub fn with(mut self, name: &str, addrs: impl IntoIterator<Item = IpAddr>) -> Self {
        self.0.insert(name.into(), addrs.into_iter().collect());
        self
    }
}

impl Resolve for MapResolver {
    fn resolve<'a>(&'a self, name: &'a Name) -> Resolving<'a> {
        Box::pin(std::future::ready(answer(self.0.get(name.as_str()))))
    }
}
