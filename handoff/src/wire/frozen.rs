//! Hello, HelloAck and Refused: the encoding that never changes.
//!
//! A fixed prefix, then fields as tag u16, length u16, value; all little-endian. Tags that are not known are skipped:
//! later versions say more by adding tags. Lists are a tag that comes several times.
//!
//! ```text
//! Hello     role u8 (0 incumbent, 1 successor, 2 cold, 3 retiring)  strategy u8 (0 exclusive, 1 overlap)
//!           wire_min u16  wire_max u16  pid u32  instance u128  epoch u64  generation u64
//!           1 build  2 service  3 state formats  4 connection formats  5 owner.lock dev u64 ino u64, optional
//!           6 listener name, any number; formats: writes u32, then reads u32 each
//!           7 answers canaries, empty, optional
//! HelloAck  version u16  lease_ms u32  freeze_budget_ms u32  deadline_ms u32  generation u64  incumbent u128
//!           connection_format u32
//! Refused   what u16
//!           1 why
//! ```

use super::frame::WireError;
use super::message::{FileId, Formats, Hello, HelloAck, Refused, Role, Strategy};
use super::text::{MAX_BUILD, MAX_REASON, MAX_SERVICE, clip};
use crate::ids::{BuildId, Epoch, InstanceId, ListenerName};

/// The most entries of a list.
pub(super) const MAX_LIST: usize = 64;

const BUILD: u16 = 1;
const SERVICE: u16 = 2;
const STATE: u16 = 3;
const CONNECTIONS: u16 = 4;
const OWNER_LOCK: u16 = 5;
const LISTENER: u16 = 6;
const CANARY: u16 = 7;

const WHY: u16 = 1;

pub(super) fn write_hello(hello: &Hello) -> Result<Vec<u8>, WireError> {
    let limit = |what, size, max| at_most("Hello", what, size, max);
    limit("the build id", hello.build.0.len(), MAX_BUILD)?;
    limit("the service name", hello.service.len(), MAX_SERVICE)?;
    limit("the list of state formats", hello.state.reads.len(), MAX_LIST)?;
    limit("the list of connection formats", hello.connections.reads.len(), MAX_LIST)?;
    limit("the list of listeners", hello.listeners.len(), MAX_LIST)?;

    let mut out = vec![role_number(hello.role), strategy_number(hello.strategy)];
    out.extend_from_slice(&hello.wire_min.to_le_bytes());
    out.extend_from_slice(&hello.wire_max.to_le_bytes());
    out.extend_from_slice(&hello.pid.to_le_bytes());
    out.extend_from_slice(&hello.instance.0.to_le_bytes());
    out.extend_from_slice(&hello.epoch.0.to_le_bytes());
    out.extend_from_slice(&hello.generation.to_le_bytes());
    field(&mut out, BUILD, hello.build.0.as_bytes());
    field(&mut out, SERVICE, hello.service.as_bytes());
    field(&mut out, STATE, &formats_bytes(&hello.state));
    field(&mut out, CONNECTIONS, &formats_bytes(&hello.connections));
    if let Some(FileId { dev, ino }) = hello.owner_lock {
        field(&mut out, OWNER_LOCK, &[dev.to_le_bytes(), ino.to_le_bytes()].concat());
    }
    for name in &hello.listeners {
        field(&mut out, LISTENER, name.as_str().as_bytes());
    }
    if hello.canary {
        field(&mut out, CANARY, &[]);
    }
    Ok(out)
}

pub(super) fn read_hello(payload: &[u8]) -> Result<Hello, WireError> {
    let mut from = Reader { message: "Hello", rest: payload };
    let role = from.role()?;
    let strategy = from.strategy()?;
    let wire_min = u16::from_le_bytes(from.take("wire_min")?);
    let wire_max = u16::from_le_bytes(from.take("wire_max")?);
    let pid = u32::from_le_bytes(from.take("pid")?);
    let instance = InstanceId(u128::from_le_bytes(from.take("instance")?));
    let epoch = Epoch(u64::from_le_bytes(from.take("epoch")?));
    let generation = u64::from_le_bytes(from.take("generation")?);

    let (mut build, mut service, mut state, mut connections, mut owner_lock) = (None, None, None, None, None);
    let (mut listeners, mut canary) = (Vec::new(), None);
    while let Some((tag, mut value)) = from.field()? {
        match tag {
            BUILD => value.once("build", &mut build, |v| v.text("the build id", MAX_BUILD))?,
            SERVICE => value.once("service", &mut service, |v| v.text("the service name", MAX_SERVICE))?,
            STATE => value.once("state formats", &mut state, |v| v.formats("the list of state formats"))?,
            CONNECTIONS => value.once("connection formats", &mut connections, |v| {
                v.formats("the list of connection formats")
            })?,
            OWNER_LOCK => value.once("owner.lock", &mut owner_lock, |v| {
                let dev = u64::from_le_bytes(v.take("owner.lock")?);
                let ino = u64::from_le_bytes(v.take("owner.lock")?);
                Ok(FileId { dev, ino })
            })?,
            CANARY => value.once("canary", &mut canary, |_| Ok(()))?,
            LISTENER => {
                at_most("Hello", "the list of listeners", listeners.len() + 1, MAX_LIST)?;
                let name = value.text("a listener name", 64)?;
                listeners.push(ListenerName::new(&name).map_err(|e| value.wrong(e.to_string()))?);
            }
            _ => {}
        }
    }
    let missing = |what: &str| from.wrong(format!("the field {what} is missing"));
    Ok(Hello {
        role,
        instance,
        pid,
        build: BuildId(build.ok_or_else(|| missing("build"))?),
        service: service.ok_or_else(|| missing("service"))?,
        wire_min,
        wire_max,
        strategy,
        state: state.ok_or_else(|| missing("state formats"))?,
        connections: connections.ok_or_else(|| missing("connection formats"))?,
        owner_lock,
        epoch,
        listeners,
        generation,
        canary: canary.is_some(),
    })
}

pub(super) fn write_hello_ack(ack: &HelloAck) -> Vec<u8> {
    let mut out = Vec::with_capacity(42);
    out.extend_from_slice(&ack.version.to_le_bytes());
    out.extend_from_slice(&ack.lease_ms.to_le_bytes());
    out.extend_from_slice(&ack.freeze_budget_ms.to_le_bytes());
    out.extend_from_slice(&ack.deadline_ms.to_le_bytes());
    out.extend_from_slice(&ack.generation.to_le_bytes());
    out.extend_from_slice(&ack.incumbent.0.to_le_bytes());
    out.extend_from_slice(&ack.connection_format.to_le_bytes());
    out
}

pub(super) fn read_hello_ack(payload: &[u8]) -> Result<HelloAck, WireError> {
    let mut from = Reader { message: "HelloAck", rest: payload };
    let ack = HelloAck {
        version: u16::from_le_bytes(from.take("version")?),
        lease_ms: u32::from_le_bytes(from.take("lease")?),
        freeze_budget_ms: u32::from_le_bytes(from.take("freeze budget")?),
        deadline_ms: u32::from_le_bytes(from.take("deadline")?),
        generation: u64::from_le_bytes(from.take("generation")?),
        incumbent: InstanceId(u128::from_le_bytes(from.take("incumbent")?)),
        connection_format: u32::from_le_bytes(from.take("connection format")?),
    };
    while from.field()?.is_some() {}
    Ok(ack)
}

pub(super) fn write_refused(refused: &Refused) -> Vec<u8> {
    let mut out = refused.what.to_le_bytes().to_vec();
    field(&mut out, WHY, clip(&refused.why, MAX_REASON).as_bytes());
    out
}

pub(super) fn read_refused(payload: &[u8]) -> Result<Refused, WireError> {
    let mut from = Reader { message: "Refused", rest: payload };
    let what = u16::from_le_bytes(from.take("what")?);
    let mut why = None;
    while let Some((tag, mut value)) = from.field()? {
        if tag == WHY {
            value.once("why", &mut why, |v| v.text("the reason", MAX_REASON))?;
        }
    }
    let why = why.ok_or_else(|| from.wrong("the field why is missing".into()))?;
    Ok(Refused { what, why })
}

/// Refuses what is larger than it may be.
pub(super) fn at_most(
    message: &'static str,
    what: &'static str,
    size: usize,
    max: usize,
) -> Result<(), WireError> {
    if size <= max { Ok(()) } else { Err(WireError::Limit { message, what, size, max }) }
}

pub(super) fn field(out: &mut Vec<u8>, tag: u16, value: &[u8]) {
    let length =
        u16::try_from(value.len()).expect("values are limited far below 64 KiB before they get here");
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(value);
}

fn formats_bytes(formats: &Formats) -> Vec<u8> {
    std::iter::once(&formats.writes).chain(&formats.reads).flat_map(|f| f.to_le_bytes()).collect()
}

fn role_number(role: Role) -> u8 {
    match role {
        Role::Incumbent => 0,
        Role::Successor => 1,
        Role::Cold => 2,
        Role::Retiring => 3,
    }
}

fn strategy_number(strategy: Strategy) -> u8 {
    match strategy {
        Strategy::Exclusive => 0,
        Strategy::Overlap => 1,
    }
}

/// Reads fields.
pub(super) struct Reader<'a> {
    pub(super) message: &'static str,
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn wrong(&self, what: String) -> WireError {
        WireError::Payload { message: self.message, what }
    }

    pub(super) fn take<const N: usize>(&mut self, what: &str) -> Result<[u8; N], WireError> {
        let (head, rest) =
            self.rest.split_first_chunk().ok_or_else(|| self.wrong(format!("ends within {what}")))?;
        self.rest = rest;
        Ok(*head)
    }

    fn role(&mut self) -> Result<Role, WireError> {
        match self.take("role")? {
            [0] => Ok(Role::Incumbent),
            [1] => Ok(Role::Successor),
            [2] => Ok(Role::Cold),
            [3] => Ok(Role::Retiring),
            [other] => Err(self.wrong(format!("role {other} is not known"))),
        }
    }

    fn strategy(&mut self) -> Result<Strategy, WireError> {
        match self.take("strategy")? {
            [0] => Ok(Strategy::Exclusive),
            [1] => Ok(Strategy::Overlap),
            [other] => Err(self.wrong(format!("strategy {other} is not known"))),
        }
    }

    /// The next field: its tag and a reader of its value alone.
    pub(super) fn field(&mut self) -> Result<Option<(u16, Reader<'a>)>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = u16::from_le_bytes(self.take("a field's tag")?);
        let length = usize::from(u16::from_le_bytes(self.take("a field's length")?));
        let (value, rest) = self.rest.split_at_checked(length).ok_or_else(|| {
            self.wrong(format!("field {tag} of {length} bytes ends after {}", self.rest.len()))
        })?;
        self.rest = rest;
        Ok(Some((tag, Reader { message: self.message, rest: value })))
    }

    /// Reads a whole value into a place that must still be empty.
    pub(super) fn once<T>(
        &mut self,
        name: &str,
        place: &mut Option<T>,
        read: impl FnOnce(&mut Self) -> Result<T, WireError>,
    ) -> Result<(), WireError> {
        if place.is_some() {
            return Err(self.wrong(format!("the field {name} comes twice")));
        }
        *place = Some(read(self)?);
        match self.rest.len() {
            0 => Ok(()),
            count => Err(self.wrong(format!("the field {name} is {count} bytes too long"))),
        }
    }

    fn text(&mut self, what: &'static str, max: usize) -> Result<String, WireError> {
        at_most(self.message, what, self.rest.len(), max)?;
        let text = str::from_utf8(self.rest).map_err(|_| self.wrong(format!("{what} is not UTF-8")))?;
        self.rest = &[];
        Ok(text.to_owned())
    }

    fn formats(&mut self, what: &'static str) -> Result<Formats, WireError> {
        let writes = u32::from_le_bytes(self.take(what)?);
        at_most(self.message, what, self.rest.len() / 4, MAX_LIST)?;
        let mut reads = Vec::with_capacity(self.rest.len() / 4);
        while !self.rest.is_empty() {
            reads.push(u32::from_le_bytes(self.take(what)?));
        }
        Ok(Formats { reads, writes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            role: Role::Successor,
            instance: InstanceId(1),
            pid: 2,
            build: BuildId("b".into()),
            service: "kv".into(),
            wire_min: 1,
            wire_max: 1,
            strategy: Strategy::Exclusive,
            state: Formats { reads: vec![1, 2], writes: 2 },
            connections: Formats::default(),
            owner_lock: None,
            epoch: Epoch(3),
            listeners: vec![],
            generation: 4,
            canary: false,
        }
    }

    #[test]
    fn unknown_fields_are_skipped_wherever_they_stand() {
        let mut bytes = write_hello(&hello()).unwrap();
        let mut tail = bytes.split_off(42);
        field(&mut bytes, 999, b"from the future");
        bytes.append(&mut tail);
        field(&mut bytes, 1000, &[0; 3000]);
        assert_eq!(read_hello(&bytes), Ok(hello()));

        let ack = HelloAck {
            version: 1,
            lease_ms: 2,
            freeze_budget_ms: 3,
            deadline_ms: 4,
            generation: 5,
            incumbent: InstanceId(6),
            connection_format: 7,
        };
        let mut bytes = write_hello_ack(&ack);
        field(&mut bytes, 1, b"");
        assert_eq!(read_hello_ack(&bytes), Ok(ack));
    }

    #[test]
    fn missing_doubled_and_misshapen_fields_are_named() {
        let whole = write_hello(&hello()).unwrap();
        let says = |bytes: &[u8], text: &str| {
            let error = read_hello(bytes).unwrap_err().to_string();
            assert!(error.contains(text), "{error:?} does not say {text:?}");
        };
        says(&whole[..42], "the field build is missing");
        says(&whole[..10], "ends within instance");
        says(&whole[..43], "ends within a field's tag");
        says(&whole[..whole.len() - 1], "field 4 of 4 bytes ends after 3");
        let with = |tag, value: &[u8]| {
            let mut bytes = whole.clone();
            field(&mut bytes, tag, value);
            bytes
        };
        says(&with(BUILD, b"again"), "the field build comes twice");
        says(&with(OWNER_LOCK, &[0; 17]), "the field owner.lock is 1 bytes too long");
        says(&with(OWNER_LOCK, &[0; 15]), "ends within owner.lock");
        says(&with(LISTENER, b"a/b"), "is no listener name");
        says(&with(LISTENER, &[b'a'; 65]), "a listener name has 65, at most 64");
        let mut bad = whole.clone();
        bad[0] = 9;
        says(&bad, "role 9 is not known");
    }

    #[test]
    fn limits_hold_on_both_sides() {
        let long = Hello { build: BuildId("x".repeat(129)), ..hello() };
        assert_eq!(
            write_hello(&long),
            Err(WireError::Limit { message: "Hello", what: "the build id", size: 129, max: 128 })
        );
        let many = Hello { state: Formats { reads: vec![1; 65], writes: 1 }, ..hello() };
        assert!(write_hello(&many).is_err());
        let mut bytes = write_hello(&hello()).unwrap();
        for n in 0..65 {
            field(&mut bytes, LISTENER, format!("l{n}").as_bytes());
        }
        assert!(read_hello(&bytes).unwrap_err().to_string().contains("the list of listeners has 65"));

        let wordy = Refused { what: 1, why: "ä".repeat(2000) };
        let read = read_refused(&write_refused(&wordy)).unwrap();
        assert_eq!(read.why, "ä".repeat(512), "reasons are cut, not refused");
    }
}
