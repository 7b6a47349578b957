//! All methods. Generated from `spec/amqp-0-9-1.txt`: change that, or the generator, not this file.

use super::Facts;
use super::Sender::{Both, Client, Server};
use super::{access, basic, channel, confirm, connection, exchange, queue, tx};
use crate::error::Malformed;

/// A decoded method of any class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method<'a> {
    /// `connection.start`
    ConnectionStart(connection::Start<'a>),
    /// `connection.start-ok`
    ConnectionStartOk(connection::StartOk<'a>),
    /// `connection.secure`
    ConnectionSecure(connection::Secure<'a>),
    /// `connection.secure-ok`
    ConnectionSecureOk(connection::SecureOk<'a>),
    /// `connection.tune`
    ConnectionTune(connection::Tune),
    /// `connection.tune-ok`
    ConnectionTuneOk(connection::TuneOk),
    /// `connection.open`
    ConnectionOpen(connection::Open<'a>),
    /// `connection.open-ok`
    ConnectionOpenOk(connection::OpenOk),
    /// `connection.close`
    ConnectionClose(connection::Close<'a>),
    /// `connection.close-ok`
    ConnectionCloseOk(connection::CloseOk),
    /// `connection.blocked`
    ConnectionBlocked(connection::Blocked<'a>),
    /// `connection.unblocked`
    ConnectionUnblocked(connection::Unblocked),
    /// `connection.update-secret`
    ConnectionUpdateSecret(connection::UpdateSecret<'a>),
    /// `connection.update-secret-ok`
    ConnectionUpdateSecretOk(connection::UpdateSecretOk),
    /// `channel.open`
    ChannelOpen(channel::Open),
    /// `channel.open-ok`
    ChannelOpenOk(channel::OpenOk),
    /// `channel.flow`
    ChannelFlow(channel::Flow),
    /// `channel.flow-ok`
    ChannelFlowOk(channel::FlowOk),
    /// `channel.close`
    ChannelClose(channel::Close<'a>),
    /// `channel.close-ok`
    ChannelCloseOk(channel::CloseOk),
    /// `access.request`
    AccessRequest(access::Request<'a>),
    /// `access.request-ok`
    AccessRequestOk(access::RequestOk),
    /// `exchange.declare`
    ExchangeDeclare(exchange::Declare<'a>),
    /// `exchange.declare-ok`
    ExchangeDeclareOk(exchange::DeclareOk),
    /// `exchange.delete`
    ExchangeDelete(exchange::Delete<'a>),
    /// `exchange.delete-ok`
    ExchangeDeleteOk(exchange::DeleteOk),
    /// `exchange.bind`
    ExchangeBind(exchange::Bind<'a>),
    /// `exchange.bind-ok`
    ExchangeBindOk(exchange::BindOk),
    /// `exchange.unbind`
    ExchangeUnbind(exchange::Unbind<'a>),
    /// `exchange.unbind-ok`
    ExchangeUnbindOk(exchange::UnbindOk),
    /// `queue.declare`
    QueueDeclare(queue::Declare<'a>),
    /// `queue.declare-ok`
    QueueDeclareOk(queue::DeclareOk<'a>),
    /// `queue.bind`
    QueueBind(queue::Bind<'a>),
    /// `queue.bind-ok`
    QueueBindOk(queue::BindOk),
    /// `queue.purge`
    QueuePurge(queue::Purge<'a>),
    /// `queue.purge-ok`
    QueuePurgeOk(queue::PurgeOk),
    /// `queue.delete`
    QueueDelete(queue::Delete<'a>),
    /// `queue.delete-ok`
    QueueDeleteOk(queue::DeleteOk),
    /// `queue.unbind`
    QueueUnbind(queue::Unbind<'a>),
    /// `queue.unbind-ok`
    QueueUnbindOk(queue::UnbindOk),
    /// `basic.qos`
    BasicQos(basic::Qos),
    /// `basic.qos-ok`
    BasicQosOk(basic::QosOk),
    /// `basic.consume`
    BasicConsume(basic::Consume<'a>),
    /// `basic.consume-ok`
    BasicConsumeOk(basic::ConsumeOk<'a>),
    /// `basic.cancel`
    BasicCancel(basic::Cancel<'a>),
    /// `basic.cancel-ok`
    BasicCancelOk(basic::CancelOk<'a>),
    /// `basic.publish`
    BasicPublish(basic::Publish<'a>),
    /// `basic.return`
    BasicReturn(basic::Return<'a>),
    /// `basic.deliver`
    BasicDeliver(basic::Deliver<'a>),
    /// `basic.get`
    BasicGet(basic::Get<'a>),
    /// `basic.get-ok`
    BasicGetOk(basic::GetOk<'a>),
    /// `basic.get-empty`
    BasicGetEmpty(basic::GetEmpty),
    /// `basic.ack`
    BasicAck(basic::Ack),
    /// `basic.reject`
    BasicReject(basic::Reject),
    /// `basic.recover-async`
    BasicRecoverAsync(basic::RecoverAsync),
    /// `basic.recover`
    BasicRecover(basic::Recover),
    /// `basic.recover-ok`
    BasicRecoverOk(basic::RecoverOk),
    /// `basic.nack`
    BasicNack(basic::Nack),
    /// `confirm.select`
    ConfirmSelect(confirm::Select),
    /// `confirm.select-ok`
    ConfirmSelectOk(confirm::SelectOk),
    /// `tx.select`
    TxSelect(tx::Select),
    /// `tx.select-ok`
    TxSelectOk(tx::SelectOk),
    /// `tx.commit`
    TxCommit(tx::Commit),
    /// `tx.commit-ok`
    TxCommitOk(tx::CommitOk),
    /// `tx.rollback`
    TxRollback(tx::Rollback),
    /// `tx.rollback-ok`
    TxRollbackOk(tx::RollbackOk),
}

/// What is known about each method, in the order of [`Method`]'s variants.
pub(super) static ALL: [Facts; 66] = [
    Facts::new(10, 10, "connection.start", Server, false),
    Facts::new(10, 11, "connection.start-ok", Client, false),
    Facts::new(10, 20, "connection.secure", Server, false),
    Facts::new(10, 21, "connection.secure-ok", Client, false),
    Facts::new(10, 30, "connection.tune", Server, false),
    Facts::new(10, 31, "connection.tune-ok", Client, false),
    Facts::new(10, 40, "connection.open", Client, false),
    Facts::new(10, 41, "connection.open-ok", Server, false),
    Facts::new(10, 50, "connection.close", Both, false),
    Facts::new(10, 51, "connection.close-ok", Both, false),
    Facts::new(10, 60, "connection.blocked", Server, false),
    Facts::new(10, 61, "connection.unblocked", Server, false),
    Facts::new(10, 70, "connection.update-secret", Client, false),
    Facts::new(10, 71, "connection.update-secret-ok", Server, false),
    Facts::new(20, 10, "channel.open", Client, false),
    Facts::new(20, 11, "channel.open-ok", Server, false),
    Facts::new(20, 20, "channel.flow", Both, false),
    Facts::new(20, 21, "channel.flow-ok", Both, false),
    Facts::new(20, 40, "channel.close", Both, false),
    Facts::new(20, 41, "channel.close-ok", Both, false),
    Facts::new(30, 10, "access.request", Client, false),
    Facts::new(30, 11, "access.request-ok", Server, false),
    Facts::new(40, 10, "exchange.declare", Client, false),
    Facts::new(40, 11, "exchange.declare-ok", Server, false),
    Facts::new(40, 20, "exchange.delete", Client, false),
    Facts::new(40, 21, "exchange.delete-ok", Server, false),
    Facts::new(40, 30, "exchange.bind", Client, false),
    Facts::new(40, 31, "exchange.bind-ok", Server, false),
    Facts::new(40, 40, "exchange.unbind", Client, false),
    Facts::new(40, 51, "exchange.unbind-ok", Server, false),
    Facts::new(50, 10, "queue.declare", Client, false),
    Facts::new(50, 11, "queue.declare-ok", Server, false),
    Facts::new(50, 20, "queue.bind", Client, false),
    Facts::new(50, 21, "queue.bind-ok", Server, false),
    Facts::new(50, 30, "queue.purge", Client, false),
    Facts::new(50, 31, "queue.purge-ok", Server, false),
    Facts::new(50, 40, "queue.delete", Client, false),
    Facts::new(50, 41, "queue.delete-ok", Server, false),
    Facts::new(50, 50, "queue.unbind", Client, false),
    Facts::new(50, 51, "queue.unbind-ok", Server, false),
    Facts::new(60, 10, "basic.qos", Client, false),
    Facts::new(60, 11, "basic.qos-ok", Server, false),
    Facts::new(60, 20, "basic.consume", Client, false),
    Facts::new(60, 21, "basic.consume-ok", Server, false),
    Facts::new(60, 30, "basic.cancel", Both, false),
    Facts::new(60, 31, "basic.cancel-ok", Both, false),
    Facts::new(60, 40, "basic.publish", Client, true),
    Facts::new(60, 50, "basic.return", Server, true),
    Facts::new(60, 60, "basic.deliver", Server, true),
    Facts::new(60, 70, "basic.get", Client, false),
    Facts::new(60, 71, "basic.get-ok", Server, true),
    Facts::new(60, 72, "basic.get-empty", Server, false),
    Facts::new(60, 80, "basic.ack", Both, false),
    Facts::new(60, 90, "basic.reject", Client, false),
    Facts::new(60, 100, "basic.recover-async", Client, false),
    Facts::new(60, 110, "basic.recover", Client, false),
    Facts::new(60, 111, "basic.recover-ok", Server, false),
    Facts::new(60, 120, "basic.nack", Both, false),
    Facts::new(85, 10, "confirm.select", Client, false),
    Facts::new(85, 11, "confirm.select-ok", Server, false),
    Facts::new(90, 10, "tx.select", Client, false),
    Facts::new(90, 11, "tx.select-ok", Server, false),
    Facts::new(90, 20, "tx.commit", Client, false),
    Facts::new(90, 21, "tx.commit-ok", Server, false),
    Facts::new(90, 30, "tx.rollback", Client, false),
    Facts::new(90, 31, "tx.rollback-ok", Server, false),
];

impl<'a> Method<'a> {
    pub(super) fn facts(&self) -> &'static Facts {
        match self {
            Self::ConnectionStart(_) => &ALL[0],
            Self::ConnectionStartOk(_) => &ALL[1],
            Self::ConnectionSecure(_) => &ALL[2],
            Self::ConnectionSecureOk(_) => &ALL[3],
            Self::ConnectionTune(_) => &ALL[4],
            Self::ConnectionTuneOk(_) => &ALL[5],
            Self::ConnectionOpen(_) => &ALL[6],
            Self::ConnectionOpenOk(_) => &ALL[7],
            Self::ConnectionClose(_) => &ALL[8],
            Self::ConnectionCloseOk(_) => &ALL[9],
            Self::ConnectionBlocked(_) => &ALL[10],
            Self::ConnectionUnblocked(_) => &ALL[11],
            Self::ConnectionUpdateSecret(_) => &ALL[12],
            Self::ConnectionUpdateSecretOk(_) => &ALL[13],
            Self::ChannelOpen(_) => &ALL[14],
            Self::ChannelOpenOk(_) => &ALL[15],
            Self::ChannelFlow(_) => &ALL[16],
            Self::ChannelFlowOk(_) => &ALL[17],
            Self::ChannelClose(_) => &ALL[18],
            Self::ChannelCloseOk(_) => &ALL[19],
            Self::AccessRequest(_) => &ALL[20],
            Self::AccessRequestOk(_) => &ALL[21],
            Self::ExchangeDeclare(_) => &ALL[22],
            Self::ExchangeDeclareOk(_) => &ALL[23],
            Self::ExchangeDelete(_) => &ALL[24],
            Self::ExchangeDeleteOk(_) => &ALL[25],
            Self::ExchangeBind(_) => &ALL[26],
            Self::ExchangeBindOk(_) => &ALL[27],
            Self::ExchangeUnbind(_) => &ALL[28],
            Self::ExchangeUnbindOk(_) => &ALL[29],
            Self::QueueDeclare(_) => &ALL[30],
            Self::QueueDeclareOk(_) => &ALL[31],
            Self::QueueBind(_) => &ALL[32],
            Self::QueueBindOk(_) => &ALL[33],
            Self::QueuePurge(_) => &ALL[34],
            Self::QueuePurgeOk(_) => &ALL[35],
            Self::QueueDelete(_) => &ALL[36],
            Self::QueueDeleteOk(_) => &ALL[37],
            Self::QueueUnbind(_) => &ALL[38],
            Self::QueueUnbindOk(_) => &ALL[39],
            Self::BasicQos(_) => &ALL[40],
            Self::BasicQosOk(_) => &ALL[41],
            Self::BasicConsume(_) => &ALL[42],
            Self::BasicConsumeOk(_) => &ALL[43],
            Self::BasicCancel(_) => &ALL[44],
            Self::BasicCancelOk(_) => &ALL[45],
            Self::BasicPublish(_) => &ALL[46],
            Self::BasicReturn(_) => &ALL[47],
            Self::BasicDeliver(_) => &ALL[48],
            Self::BasicGet(_) => &ALL[49],
            Self::BasicGetOk(_) => &ALL[50],
            Self::BasicGetEmpty(_) => &ALL[51],
            Self::BasicAck(_) => &ALL[52],
            Self::BasicReject(_) => &ALL[53],
            Self::BasicRecoverAsync(_) => &ALL[54],
            Self::BasicRecover(_) => &ALL[55],
            Self::BasicRecoverOk(_) => &ALL[56],
            Self::BasicNack(_) => &ALL[57],
            Self::ConfirmSelect(_) => &ALL[58],
            Self::ConfirmSelectOk(_) => &ALL[59],
            Self::TxSelect(_) => &ALL[60],
            Self::TxSelectOk(_) => &ALL[61],
            Self::TxCommit(_) => &ALL[62],
            Self::TxCommitOk(_) => &ALL[63],
            Self::TxRollback(_) => &ALL[64],
            Self::TxRollbackOk(_) => &ALL[65],
        }
    }

    /// Decodes the arguments of a method; `None` if there is no such method.
    pub(super) fn decode_arguments(
        class_id: u16,
        method_id: u16,
        arguments: &'a [u8],
    ) -> Result<Option<Self>, Malformed> {
        Ok(Some(match (class_id, method_id) {
            (10, 10) => Self::ConnectionStart(connection::Start::decode(arguments)?),
            (10, 11) => Self::ConnectionStartOk(connection::StartOk::decode(arguments)?),
            (10, 20) => Self::ConnectionSecure(connection::Secure::decode(arguments)?),
            (10, 21) => Self::ConnectionSecureOk(connection::SecureOk::decode(arguments)?),
            (10, 30) => Self::ConnectionTune(connection::Tune::decode(arguments)?),
            (10, 31) => Self::ConnectionTuneOk(connection::TuneOk::decode(arguments)?),
            (10, 40) => Self::ConnectionOpen(connection::Open::decode(arguments)?),
            (10, 41) => Self::ConnectionOpenOk(connection::OpenOk::decode(arguments)?),
            (10, 50) => Self::ConnectionClose(connection::Close::decode(arguments)?),
            (10, 51) => Self::ConnectionCloseOk(connection::CloseOk::decode(arguments)?),
            (10, 60) => Self::ConnectionBlocked(connection::Blocked::decode(arguments)?),
            (10, 61) => Self::ConnectionUnblocked(connection::Unblocked::decode(arguments)?),
            (10, 70) => Self::ConnectionUpdateSecret(connection::UpdateSecret::decode(arguments)?),
            (10, 71) => {
                Self::ConnectionUpdateSecretOk(connection::UpdateSecretOk::decode(arguments)?)
            }
            (20, 10) => Self::ChannelOpen(channel::Open::decode(arguments)?),
            (20, 11) => Self::ChannelOpenOk(channel::OpenOk::decode(arguments)?),
            (20, 20) => Self::ChannelFlow(channel::Flow::decode(arguments)?),
            (20, 21) => Self::ChannelFlowOk(channel::FlowOk::decode(arguments)?),
            (20, 40) => Self::ChannelClose(channel::Close::decode(arguments)?),
            (20, 41) => Self::ChannelCloseOk(channel::CloseOk::decode(arguments)?),
            (30, 10) => Self::AccessRequest(access::Request::decode(arguments)?),
            (30, 11) => Self::AccessRequestOk(access::RequestOk::decode(arguments)?),
            (40, 10) => Self::ExchangeDeclare(exchange::Declare::decode(arguments)?),
            (40, 11) => Self::ExchangeDeclareOk(exchange::DeclareOk::decode(arguments)?),
            (40, 20) => Self::ExchangeDelete(exchange::Delete::decode(arguments)?),
            (40, 21) => Self::ExchangeDeleteOk(exchange::DeleteOk::decode(arguments)?),
            (40, 30) => Self::ExchangeBind(exchange::Bind::decode(arguments)?),
            (40, 31) => Self::ExchangeBindOk(exchange::BindOk::decode(arguments)?),
            (40, 40) => Self::ExchangeUnbind(exchange::Unbind::decode(arguments)?),
            (40, 51) => Self::ExchangeUnbindOk(exchange::UnbindOk::decode(arguments)?),
            (50, 10) => Self::QueueDeclare(queue::Declare::decode(arguments)?),
            (50, 11) => Self::QueueDeclareOk(queue::DeclareOk::decode(arguments)?),
            (50, 20) => Self::QueueBind(queue::Bind::decode(arguments)?),
            (50, 21) => Self::QueueBindOk(queue::BindOk::decode(arguments)?),
            (50, 30) => Self::QueuePurge(queue::Purge::decode(arguments)?),
            (50, 31) => Self::QueuePurgeOk(queue::PurgeOk::decode(arguments)?),
            (50, 40) => Self::QueueDelete(queue::Delete::decode(arguments)?),
            (50, 41) => Self::QueueDeleteOk(queue::DeleteOk::decode(arguments)?),
            (50, 50) => Self::QueueUnbind(queue::Unbind::decode(arguments)?),
            (50, 51) => Self::QueueUnbindOk(queue::UnbindOk::decode(arguments)?),
            (60, 10) => Self::BasicQos(basic::Qos::decode(arguments)?),
            (60, 11) => Self::BasicQosOk(basic::QosOk::decode(arguments)?),
            (60, 20) => Self::BasicConsume(basic::Consume::decode(arguments)?),
            (60, 21) => Self::BasicConsumeOk(basic::ConsumeOk::decode(arguments)?),
            (60, 30) => Self::BasicCancel(basic::Cancel::decode(arguments)?),
            (60, 31) => Self::BasicCancelOk(basic::CancelOk::decode(arguments)?),
            (60, 40) => Self::BasicPublish(basic::Publish::decode(arguments)?),
            (60, 50) => Self::BasicReturn(basic::Return::decode(arguments)?),
            (60, 60) => Self::BasicDeliver(basic::Deliver::decode(arguments)?),
            (60, 70) => Self::BasicGet(basic::Get::decode(arguments)?),
            (60, 71) => Self::BasicGetOk(basic::GetOk::decode(arguments)?),
            (60, 72) => Self::BasicGetEmpty(basic::GetEmpty::decode(arguments)?),
            (60, 80) => Self::BasicAck(basic::Ack::decode(arguments)?),
            (60, 90) => Self::BasicReject(basic::Reject::decode(arguments)?),
            (60, 100) => Self::BasicRecoverAsync(basic::RecoverAsync::decode(arguments)?),
            (60, 110) => Self::BasicRecover(basic::Recover::decode(arguments)?),
            (60, 111) => Self::BasicRecoverOk(basic::RecoverOk::decode(arguments)?),
            (60, 120) => Self::BasicNack(basic::Nack::decode(arguments)?),
            (85, 10) => Self::ConfirmSelect(confirm::Select::decode(arguments)?),
            (85, 11) => Self::ConfirmSelectOk(confirm::SelectOk::decode(arguments)?),
            (90, 10) => Self::TxSelect(tx::Select::decode(arguments)?),
            (90, 11) => Self::TxSelectOk(tx::SelectOk::decode(arguments)?),
            (90, 20) => Self::TxCommit(tx::Commit::decode(arguments)?),
            (90, 21) => Self::TxCommitOk(tx::CommitOk::decode(arguments)?),
            (90, 30) => Self::TxRollback(tx::Rollback::decode(arguments)?),
            (90, 31) => Self::TxRollbackOk(tx::RollbackOk::decode(arguments)?),
            _ => return Ok(None),
        }))
    }

    /// Appends the whole method frame to `out`.
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        match self {
            Self::ConnectionStart(method) => method.write(channel, out),
            Self::ConnectionStartOk(method) => method.write(channel, out),
            Self::ConnectionSecure(method) => method.write(channel, out),
            Self::ConnectionSecureOk(method) => method.write(channel, out),
            Self::ConnectionTune(method) => method.write(channel, out),
            Self::ConnectionTuneOk(method) => method.write(channel, out),
            Self::ConnectionOpen(method) => method.write(channel, out),
            Self::ConnectionOpenOk(method) => method.write(channel, out),
            Self::ConnectionClose(method) => method.write(channel, out),
            Self::ConnectionCloseOk(method) => method.write(channel, out),
            Self::ConnectionBlocked(method) => method.write(channel, out),
            Self::ConnectionUnblocked(method) => method.write(channel, out),
            Self::ConnectionUpdateSecret(method) => method.write(channel, out),
            Self::ConnectionUpdateSecretOk(method) => method.write(channel, out),
            Self::ChannelOpen(method) => method.write(channel, out),
            Self::ChannelOpenOk(method) => method.write(channel, out),
            Self::ChannelFlow(method) => method.write(channel, out),
            Self::ChannelFlowOk(method) => method.write(channel, out),
            Self::ChannelClose(method) => method.write(channel, out),
            Self::ChannelCloseOk(method) => method.write(channel, out),
            Self::AccessRequest(method) => method.write(channel, out),
            Self::AccessRequestOk(method) => method.write(channel, out),
            Self::ExchangeDeclare(method) => method.write(channel, out),
            Self::ExchangeDeclareOk(method) => method.write(channel, out),
            Self::ExchangeDelete(method) => method.write(channel, out),
            Self::ExchangeDeleteOk(method) => method.write(channel, out),
            Self::ExchangeBind(method) => method.write(channel, out),
            Self::ExchangeBindOk(method) => method.write(channel, out),
            Self::ExchangeUnbind(method) => method.write(channel, out),
            Self::ExchangeUnbindOk(method) => method.write(channel, out),
            Self::QueueDeclare(method) => method.write(channel, out),
            Self::QueueDeclareOk(method) => method.write(channel, out),
            Self::QueueBind(method) => method.write(channel, out),
            Self::QueueBindOk(method) => method.write(channel, out),
            Self::QueuePurge(method) => method.write(channel, out),
            Self::QueuePurgeOk(method) => method.write(channel, out),
            Self::QueueDelete(method) => method.write(channel, out),
            Self::QueueDeleteOk(method) => method.write(channel, out),
            Self::QueueUnbind(method) => method.write(channel, out),
            Self::QueueUnbindOk(method) => method.write(channel, out),
            Self::BasicQos(method) => method.write(channel, out),
            Self::BasicQosOk(method) => method.write(channel, out),
            Self::BasicConsume(method) => method.write(channel, out),
            Self::BasicConsumeOk(method) => method.write(channel, out),
            Self::BasicCancel(method) => method.write(channel, out),
            Self::BasicCancelOk(method) => method.write(channel, out),
            Self::BasicPublish(method) => method.write(channel, out),
            Self::BasicReturn(method) => method.write(channel, out),
            Self::BasicDeliver(method) => method.write(channel, out),
            Self::BasicGet(method) => method.write(channel, out),
            Self::BasicGetOk(method) => method.write(channel, out),
            Self::BasicGetEmpty(method) => method.write(channel, out),
            Self::BasicAck(method) => method.write(channel, out),
            Self::BasicReject(method) => method.write(channel, out),
            Self::BasicRecoverAsync(method) => method.write(channel, out),
            Self::BasicRecover(method) => method.write(channel, out),
            Self::BasicRecoverOk(method) => method.write(channel, out),
            Self::BasicNack(method) => method.write(channel, out),
            Self::ConfirmSelect(method) => method.write(channel, out),
            Self::ConfirmSelectOk(method) => method.write(channel, out),
            Self::TxSelect(method) => method.write(channel, out),
            Self::TxSelectOk(method) => method.write(channel, out),
            Self::TxCommit(method) => method.write(channel, out),
            Self::TxCommitOk(method) => method.write(channel, out),
            Self::TxRollback(method) => method.write(channel, out),
            Self::TxRollbackOk(method) => method.write(channel, out),
        }
    }
}
