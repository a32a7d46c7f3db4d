//! Queueing: token buckets and redirection, as rtnetlink's messages, and back. Pure.

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use crate::netfilter::{Attributes, each};

/// A token bucket of tc-tbf(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Bytes a second.
    pub(crate) rate: u64,
    /// Bytes that may wait.
    pub(crate) limit: u32,
    /// How long a full bucket lasts, in the kernel's ticks.
    pub(crate) buffer: u32,
}

/// Attributes of linux/rtnetlink.h and linux/pkt_sched.h.
const OPTIONS: u16 = 2;
const TBF_PARAMETERS: u16 = 1;
const TBF_RATE64: u16 = 4;
const U32_CLASS: u16 = 1;
const U32_SELECTOR: u16 = 5;
const U32_ACTIONS: u16 = 7;

/// The handle of the queue of what comes in; its number is fixed.
const INCOMING: TcHandle = TcHandle { major: 0xffff, minor: 0 };

fn queue(index: u32, kind: &str, handle: TcHandle, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    message.header.handle = handle;
    message.header.parent = parent;
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message
}

fn with(mut message: TcMessage, options: Attributes) -> TcMessage {
    message.attributes.push(TcAttribute::Other(DefaultNla::new(OPTIONS, options.0)));
    message
}

/// `struct tc_tbf_qopt`: two rates of 12 bytes, of which the last four count, and three numbers.
pub(crate) fn shape(index: u32, bucket: Bucket) -> RouteNetlinkMessage {
    let mut parameters = [0; 36];
    let rate = u32::try_from(bucket.rate).unwrap_or(u32::MAX);
    for (at, number) in [(8, rate), (24, bucket.limit), (28, bucket.buffer)] {
        parameters[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    }
    let mut options = Attributes::default();
    options.put(TBF_PARAMETERS, &parameters);
    if rate == u32::MAX {
        options.put(TBF_RATE64, &bucket.rate.to_ne_bytes());
    }
    let handle = TcHandle { major: 1, minor: 0 };
    RouteNetlinkMessage::NewQueueDiscipline(with(queue(index, "tbf", handle, TcHandle::ROOT), options))
}

/// The bucket of a queue, if it is one.
pub(super) fn bucket(message: &TcMessage) -> Option<Bucket> {
    message.attributes.iter().find(|attribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "tbf"))?;
    // Of a queue that the crate does not know, the options are one attribute.
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => match options.first()? {
            TcOption::Other(options) => Some(options),
            _ => None,
        },
        _ => None,
    })?;
    let mut bytes = vec![0; options.value_len()];
    options.emit_value(&mut bytes);
    let value = |wanted: u16| each(&bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let parameters = value(TBF_PARAMETERS)?;
    let number = |at: usize| parameters.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
    let long = value(TBF_RATE64).and_then(|bytes| bytes.first_chunk().copied()).map(u64::from_ne_bytes);
    Some(Bucket { rate: long.unwrap_or(number(8)?.into()), limit: number(24)?, buffer: number(28)? })
}

/// The queue of what comes in.
pub(crate) fn incoming(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewQueueDiscipline(queue(index, "ingress", INCOMING, TcHandle::INGRESS))
}

/// Whatever comes in goes out by another link instead: a filter that everything matches, and the action mirred.
pub(crate) fn redirect(index: u32, to: u32) -> RouteNetlinkMessage {
    /// TC_U32_TERMINAL, TC_ACT_STOLEN and TCA_EGRESS_REDIR.
    const TERMINAL: u8 = 1;
    const STOLEN: u32 = 4;
    const EGRESS_REDIRECT: u32 = 1;
    // struct tc_u32_sel: flags, shift and the number of keys, of which there is one that masks everything.
    let mut selector = [0; 32];
    (selector[0], selector[2]) = (TERMINAL, 1);
    // struct tc_mirred: index, capabilities, action, two counts, what to do, and to whom.
    let numbers = [0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, to].map(u32::to_ne_bytes);
    let (mut mirred, mut action, mut actions) = (Attributes::default(), Attributes::default(), Attributes::default());
    mirred.put(2, numbers.as_flattened());
    action.text(1, "mirred").nest(2, &mirred);
    actions.nest(1, &action);
    let mut options = Attributes::default();
    options.put(U32_CLASS, &0x0001_0001_u32.to_ne_bytes());
    options.put(U32_SELECTOR, &selector).nest(U32_ACTIONS, &actions);
    let mut message = queue(index, "u32", TcHandle::default(), INCOMING);
    // Priority 1 and every protocol: ETH_P_ALL, in the network's order.
    message.header.info = (1 << 16) | u32::from(3_u16.to_be());
    RouteNetlinkMessage::NewTrafficFilter(with(message, options))
}

/// The root queue goes, or that of what comes in.
pub(crate) fn release(index: u32, incoming: bool) -> RouteNetlinkMessage {
    let parent = if incoming { TcHandle::INGRESS } else { TcHandle::ROOT };
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = parent;
    RouteNetlinkMessage::DelQueueDiscipline(message)
}
