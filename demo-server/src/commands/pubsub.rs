//! Channels.

use crate::command::{Done, Turn};
use crate::protocol::{Args, Replies};

pub(crate) fn publish(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let mut message = Replies::default();
    message.array(3);
    message.bulk(b"message");
    message.bulk(&args[1]);
    message.bulk(&args[2]);
    let receivers = turn.server.clients().publish(&args[1], &message.unsent().into());
    turn.replies.count(receivers);
    Ok(())
}

pub(crate) fn subscribe(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let mut clients = turn.server.clients();
    for channel in args.from(1) {
        turn.session.channels = clients.subscribe(turn.session.id, channel);
        changed(turn.replies, "subscribe", Some(channel), turn.session.channels);
    }
    Ok(())
}

pub(crate) fn unsubscribe(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let mut clients = turn.server.clients();
    // nothing is published while the table is locked: what came before comes before the reply
    for message in turn.mailbox.messages() {
        turn.replies.raw(&message);
    }
    let mut channels: Vec<Box<[u8]>> = args.from(1).map(Box::from).collect();
    if channels.is_empty() {
        channels = clients
            .get_mut(turn.session.id)
            .map(|c| c.channels.iter().cloned().collect())
            .unwrap_or_default();
    }
    if channels.is_empty() {
        changed(turn.replies, "unsubscribe", None, 0);
    }
    for channel in channels {
        turn.session.channels = clients.unsubscribe(turn.session.id, &channel);
        changed(turn.replies, "unsubscribe", Some(&channel), turn.session.channels);
    }
    Ok(())
}

fn changed(replies: &mut Replies, how: &str, channel: Option<&[u8]>, channels: usize) {
    replies.array(3);
    replies.bulk(how.as_bytes());
    replies.optional(channel);
    replies.count(channels);
}
