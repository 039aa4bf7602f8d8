//! What an exchange leaves behind for a later one of the same thread: the memory of its fields, of its extensions and of the layers'
//! context there, without what was in them.

use http::{Extensions, HeaderMap};

use crate::{context::RequestContext, spare::Spare, upstream::UpstreamInfo};

/// Maps that have grown above this are not.
const FIELDS: usize = 64;

type Spent = (HeaderMap, Extensions);

thread_local! {
    static SPENT: Spare<Spent> = const { Spare::new() };
}

/// An empty map, and extensions with nothing but an empty context in them, or with nothing at all.
pub(super) fn take() -> Spent {
    Spare::take(&SPENT).unwrap_or_default()
}

/// Takes over what a reply was made of, and drops what is in it.
pub(super) fn put(mut headers: HeaderMap, mut extensions: Extensions) {
    // The length too: the capacity does not count what repeated names bring with them.
    let large = headers.capacity() > FIELDS || headers.len() > FIELDS;
    empty(&mut extensions);
    if large {
        return;
    }
    headers.clear();
    Spare::put(&SPENT, (headers, extensions));
}

/// As a rule there is the context and where the answer came from. A map does not tell what else there is.
fn empty(extensions: &mut Extensions) {
    extensions.remove::<UpstreamInfo>();
    let alone = extensions.len() == 1;
    match extensions.get_mut::<RequestContext>().filter(|_| alone) {
        Some(context) => *context = RequestContext::default(),
        None => extensions.clear(),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::spare::KEPT;

    #[test]
    fn nothing_of_an_exchange_reaches_the_next() {
        let (mut headers, mut extensions) = take();
        headers.append("x-secret", HeaderValue::from_static("1"));
        headers.append("x-secret", HeaderValue::from_static("2"));
        extensions.insert(7u8);
        put(headers, extensions);
        let (headers, extensions) = take();
        assert!(headers.is_empty() && headers.capacity() > 0);
        assert!(extensions.is_empty());
    }

    #[test]
    fn a_context_is_emptied_and_stays() {
        for other in [false, true] {
            let mut extensions = Extensions::new();
            let context = RequestContext::of_mut(&mut extensions).set_malformed();
            context.set_principal(crate::tokens::Principal::new("somebody"));
            if other {
                extensions.insert(7u8);
            }
            put(HeaderMap::new(), extensions);
            let (_, extensions) = take();
            assert_eq!(extensions.len(), usize::from(!other));
            let left = RequestContext::of(&extensions).cloned().unwrap_or_default();
            assert_eq!(format!("{left:?}"), format!("{:?}", RequestContext::default()));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let large = HeaderMap::with_capacity(FIELDS * 2);
        put(large, Extensions::new());
        assert!(take().0.capacity() <= FIELDS);
        let mut repeated = HeaderMap::new();
        for _ in 0..=FIELDS {
            repeated.append("x", HeaderValue::from_static(""));
        }
        put(repeated, Extensions::new());
        assert_eq!(SPENT.with(Spare::len), 0);
        for _ in 0..KEPT * 2 {
            put(HeaderMap::with_capacity(1), Extensions::new());
        }
        assert_eq!(SPENT.with(Spare::len), KEPT);
    }
}
