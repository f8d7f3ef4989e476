//! What changes a store, and its bytes in the log.
//!
//! An operation says what is true afterwards, never "if" and never "now": replayed at any time by any build it
//! makes the same store.

/// One change; all of it or nothing becomes durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    /// The key holds this value until then (unix milliseconds).
    Set { key: &'a [u8], value: &'a [u8], expires: Option<u64> },
    /// The keys hold these values, for ever.
    SetMany(Vec<(&'a [u8], &'a [u8])>),
    /// The value at the end of what a present key holds.
    Append { key: &'a [u8], value: &'a [u8] },
    /// A present key ends then; `None`: never.
    Expire { key: &'a [u8], at: Option<u64> },
    /// The keys are gone.
    Delete(Vec<&'a [u8]>),
    /// All keys are gone.
    Clear,
}

const SET: u8 = 1;
const SET_MANY: u8 = 2;
const APPEND: u8 = 3;
const EXPIRE: u8 = 4;
const DELETE: u8 = 5;
const CLEAR: u8 = 6;

/// "Never" on disk: no key expires in 1970.
const NEVER: u64 = 0;

impl<'a> Operation<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Set { key, value, expires } => {
                out.push(SET);
                out.extend_from_slice(&expires.unwrap_or(NEVER).to_le_bytes());
                put(out, key);
                out.extend_from_slice(value);
            }
            Self::SetMany(pairs) => {
                out.push(SET_MANY);
                for (key, value) in pairs {
                    put(out, key);
                    put(out, value);
                }
            }
            Self::Append { key, value } => {
                out.push(APPEND);
                put(out, key);
                out.extend_from_slice(value);
            }
            Self::Expire { key, at } => {
                out.push(EXPIRE);
                out.extend_from_slice(&at.unwrap_or(NEVER).to_le_bytes());
                out.extend_from_slice(key);
            }
            Self::Delete(keys) => {
                out.push(DELETE);
                for key in keys {
                    put(out, key);
                }
            }
            Self::Clear => out.push(CLEAR),
        }
    }

    /// `None`: no operation that this build knows.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (&kind, mut rest) = bytes.split_first()?;
        Some(match kind {
            SET => {
                let expires = time(&mut rest)?;
                Self::Set { key: take(&mut rest)?, value: rest, expires }
            }
            SET_MANY => {
                let mut pairs = Vec::new();
                while !rest.is_empty() {
                    pairs.push((take(&mut rest)?, take(&mut rest)?));
                }
                Self::SetMany(pairs)
            }
            APPEND => Self::Append { key: take(&mut rest)?, value: rest },
            EXPIRE => {
                let at = time(&mut rest)?;
                Self::Expire { key: rest, at }
            }
            DELETE => {
                let mut keys = Vec::new();
                while !rest.is_empty() {
                    keys.push(take(&mut rest)?);
                }
                Self::Delete(keys)
            }
            CLEAR if rest.is_empty() => Self::Clear,
            _ => return None,
        })
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("commands are limited to 64 MiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, tail) = rest.split_first_chunk()?;
    let (bytes, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = tail;
    Some(bytes)
}

fn time(rest: &mut &[u8]) -> Option<Option<u64>> {
    let (at, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(Some(u64::from_le_bytes(*at)).filter(|&at| at != NEVER))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An operation that owns its bytes, for generators.
    #[derive(Clone, Debug)]
    pub(crate) enum Owned {
        Set(Vec<u8>, Vec<u8>, Option<u64>),
        SetMany(Vec<(Vec<u8>, Vec<u8>)>),
        Append(Vec<u8>, Vec<u8>),
        Expire(Vec<u8>, Option<u64>),
        Delete(Vec<Vec<u8>>),
        Clear,
    }

    impl Owned {
        pub(crate) fn borrow(&self) -> Operation<'_> {
            match self {
                Self::Set(key, value, expires) => Operation::Set { key, value, expires: *expires },
                Self::SetMany(p) => Operation::SetMany(p.iter().map(|(k, v)| (&k[..], &v[..])).collect()),
                Self::Append(key, value) => Operation::Append { key, value },
                Self::Expire(key, at) => Operation::Expire { key, at: *at },
                Self::Delete(keys) => Operation::Delete(keys.iter().map(|k| &k[..]).collect()),
                Self::Clear => Operation::Clear,
            }
        }
    }

    /// Few keys, so that operations meet.
    pub(crate) fn any_operation() -> impl Strategy<Value = Owned> {
        let key = || prop::collection::vec(0u8..3, 0..2);
        let value = || prop::collection::vec(any::<u8>(), 0..9);
        let time = || prop::option::of(1u64..50);
        prop_oneof![
            4 => (key(), value(), time()).prop_map(|(k, v, t)| Owned::Set(k, v, t)),
            1 => prop::collection::vec((key(), value()), 0..4).prop_map(Owned::SetMany),
            2 => (key(), value()).prop_map(|(k, v)| Owned::Append(k, v)),
            2 => (key(), time()).prop_map(|(k, t)| Owned::Expire(k, t)),
            2 => prop::collection::vec(key(), 0..4).prop_map(Owned::Delete),
            1 => Just(Owned::Clear),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(op in any_operation()) {
            let mut bytes = Vec::new();
            op.borrow().encode(&mut bytes);
            prop_assert_eq!(Operation::decode(&bytes), Some(op.borrow()));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            drop(Operation::decode(&bytes));
        }
    }
}
