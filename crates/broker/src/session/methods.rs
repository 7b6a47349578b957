//! Which method may come where, and who handles it.

use backbone_wire::ShortStr;
use backbone_wire::error::ReplyCode;
use backbone_wire::method::{Method, access, basic, channel as ch, confirm, connection, tx};

use super::barrier::waits_for;
use super::channel::{Channel, Confirm};
use super::{Core, Session, State};
use crate::counters::add;
use crate::error::Error;
use crate::out::OutBuf;
use crate::quota::Full;

/// Class connection.
const CONNECTION: u16 = 10;
/// Class channel.
const CHANNEL: u16 = 20;

impl Session {
    pub(super) fn on_method(&mut self, id: u16, method: Method<'_>, out: &mut OutBuf) {
        let ids = (method.class_id(), method.method_id());
        if id == 0 {
            return self.on_connection_method(method, out);
        }
        if let Method::ChannelOpen(_) = method {
            return self.open_channel(id, out);
        }
        let Some(channel) = self.channels.get_mut(id) else {
            let error = Error::new(ReplyCode::ChannelError, "expected 'channel.open'");
            return self.fail(&error, ids.0, ids.1, out);
        };
        if channel.incoming.is_some() {
            let error = Error::new(
                ReplyCode::UnexpectedFrame,
                "expected content header or body, got a method frame instead",
            );
            return self.fail(&error, 60, 40, out);
        }
        if ids.0 == CONNECTION || !method.is_from_client() {
            return self.fail(&unimplemented(), ids.0, ids.1, out);
        }
        if ids.0 == CHANNEL {
            return self.on_channel_method(id, method, out);
        }
        let mut may_wait_behind = None;
        if !defers(&method) {
            self.end_of_batch(out);
            may_wait_behind = waits_for(&method).map(|what| (what, out.pending()));
        }
        let Self { core, channels, .. } = self;
        let channel = channels.get_mut(id).expect("the channel was just seen");
        match core.on_method(channel, method, out) {
            Ok(()) => {
                if let Some((what, before)) = may_wait_behind {
                    core.hold_back(what, before);
                }
            }
            Err(error) => self.channel_error(id, &error, ids, out),
        }
    }

    fn on_connection_method(&mut self, method: Method<'_>, out: &mut OutBuf) {
        match method {
            Method::ConnectionClose(_) => {
                self.end_of_batch(out);
                self.release_all();
                self.write_close_oks(out);
                connection::CloseOk {}.write(0, &mut out.bytes);
                self.state = State::Closed;
            }
            Method::ConnectionUpdateSecret(_) => {
                connection::UpdateSecretOk {}.write(0, &mut out.bytes);
            }
            other => {
                let text = "unexpected method in connection state running";
                let error = Error::new(ReplyCode::ChannelError, text);
                self.fail(&error, other.class_id(), other.method_id(), out);
            }
        }
    }

    fn open_channel(&mut self, id: u16, out: &mut OutBuf) {
        // It may be one of them.
        self.write_close_oks(out);
        if self.channels.contains(id) {
            let error = Error::new(ReplyCode::ChannelError, "second 'channel.open' seen");
            return self.fail(&error, CHANNEL, 10, out);
        }
        let (open, max) = (self.channels.len(), self.core.settings.channel_max);
        if max > 0 && open >= usize::from(max) {
            let text = format!(
                "number of channels opened ({open}) has reached the negotiated channel_max ({max})"
            );
            return self.fail(&Error::new(ReplyCode::NotAllowed, text), CHANNEL, 10, out);
        }
        let place = match self.core.publisher.origin().access.channel() {
            Ok(place) => place,
            Err(Full(max)) => {
                let user = &self.core.publisher.origin().user;
                let text = format!(
                    "number of channels opened for user '{user}' has reached the maximum allowed user limit of ({max})"
                );
                return self.fail(&Error::new(ReplyCode::NotAllowed, text), CHANNEL, 10, out);
            }
        };
        self.channels.insert(Channel {
            _place: place,
            ..Channel::new(id)
        });
        add(&self.core.publisher.vhost().counters().channels_opened, 1);
        ch::OpenOk {}.write(id, &mut out.bytes);
    }

    fn on_channel_method(&mut self, id: u16, method: Method<'_>, out: &mut OutBuf) {
        match method {
            Method::ChannelClose(_) => {
                self.end_of_batch(out);
                self.end_channel(id);
                self.closed.push(id);
            }
            Method::ChannelFlow(flow) if flow.active => {
                ch::FlowOk { active: true }.write(id, &mut out.bytes);
            }
            Method::ChannelFlow(_) => {
                let error = Error::new(ReplyCode::NotImplemented, "active=false");
                self.fail(&error, CHANNEL, 20, out);
            }
            other => self.fail(&unimplemented(), CHANNEL, other.method_id(), out),
        }
    }
}

/// Methods that look at no queue: their effect may wait for the end of the batch.
fn defers(method: &Method<'_>) -> bool {
    matches!(
        method,
        Method::BasicPublish(_)
            | Method::BasicAck(_)
            | Method::BasicNack(_)
            | Method::BasicReject(_)
    )
}

impl Core {
    fn on_method(
        &mut self,
        channel: &mut Channel,
        method: Method<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let id = channel.id;
        match method {
            Method::BasicPublish(publish) => self.begin_publish(channel, &publish),
            Method::BasicAck(ack) => self.basic_ack(channel, &ack),
            Method::BasicNack(nack) => self.basic_nack(channel, &nack),
            Method::BasicReject(reject) => self.basic_reject(channel, &reject),
            Method::BasicQos(qos) => self.basic_qos(channel, &qos, out),
            Method::BasicConsume(consume) => self.basic_consume(channel, &consume, out),
            Method::BasicCancel(cancel) => self.basic_cancel(channel, &cancel, out),
            // Clients may answer our cancel; nothing waits for it.
            Method::BasicCancelOk(_) => Ok(()),
            Method::BasicGet(get) => self.basic_get(channel, &get, out),
            Method::BasicRecover(recover) => {
                self.basic_recover(channel, recover.requeue)?;
                basic::RecoverOk {}.write(id, &mut out.bytes);
                Ok(())
            }
            Method::BasicRecoverAsync(recover) => self.basic_recover(channel, recover.requeue),
            Method::ConfirmSelect(select) => self.confirm_select(channel, &select, out),
            Method::TxSelect(_) => {
                self.tx_select(channel)?;
                tx::SelectOk {}.write(id, &mut out.bytes);
                Ok(())
            }
            Method::TxCommit(_) => {
                self.tx_commit(channel, out)?;
                tx::CommitOk {}.write(id, &mut out.bytes);
                Ok(())
            }
            Method::TxRollback(_) => {
                self.tx_rollback(channel)?;
                tx::RollbackOk {}.write(id, &mut out.bytes);
                Ok(())
            }
            Method::AccessRequest(_) => {
                access::RequestOk { ticket: 1 }.write(id, &mut out.bytes);
                Ok(())
            }
            Method::QueueDeclare(declare) => self.queue_declare(channel, &declare, out),
            Method::QueueBind(bind) => self.queue_bind(channel, &bind, out),
            Method::QueueUnbind(unbind) => self.queue_unbind(channel, &unbind, out),
            Method::QueuePurge(purge) => self.queue_purge(channel, &purge, out),
            Method::QueueDelete(delete) => self.queue_delete(channel, &delete, out),
            Method::ExchangeDeclare(declare) => self.exchange_declare(channel, &declare, out),
            Method::ExchangeDelete(delete) => self.exchange_delete(channel, &delete, out),
            Method::ExchangeBind(bind) => self.exchange_bind(channel, &bind, out),
            Method::ExchangeUnbind(unbind) => self.exchange_unbind(channel, &unbind, out),
            _ => Err(unimplemented()),
        }
    }

    fn confirm_select(
        &mut self,
        channel: &mut Channel,
        select: &confirm::Select,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        if channel.tx.is_some() {
            return Err(Error::precondition_failed(
                "cannot switch from tx to confirm mode",
            ));
        }
        channel.confirm.get_or_insert_with(Confirm::default);
        if !select.no_wait {
            confirm::SelectOk {}.write(channel.id, &mut out.bytes);
        }
        Ok(())
    }
}

/// What is said of a method that has no business where it comes.
fn unimplemented() -> Error {
    Error::command_invalid("unimplemented method")
}

/// A name from the wire, which must be UTF-8 (501 otherwise).
pub(super) fn name<'a>(raw: ShortStr<'a>) -> Result<&'a str, Error> {
    raw.as_str()
        .map_err(|_| Error::new(ReplyCode::FrameError, "Malformed UTF-8 in shortstr"))
}
