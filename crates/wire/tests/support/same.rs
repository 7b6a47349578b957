//! Whether a value of ours and one of `amq-protocol` say the same.

use amq_protocol::protocol::basic::AMQPProperties;
use amq_protocol::protocol::*;
use amq_protocol::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use backbone_wire::ShortStr;
use backbone_wire::method::Method;
use backbone_wire::properties::Properties;
use backbone_wire::table::{Array, Table, Value};

/// Equality across the two implementations.
pub trait Same<Theirs> {
    fn same(&self, theirs: &Theirs) -> bool;
}

macro_rules! same_primitives {
    ($($kind:ident)*) => {
        $(impl Same<$kind> for $kind {
            fn same(&self, theirs: &$kind) -> bool {
                self == theirs
            }
        })*
    };
}

same_primitives!(bool u8 u16 u32 u64);

impl Same<ShortString> for ShortStr<'_> {
    fn same(&self, theirs: &ShortString) -> bool {
        self.as_bytes() == theirs.as_str().as_bytes()
    }
}

impl Same<LongString> for &[u8] {
    fn same(&self, theirs: &LongString) -> bool {
        *self == theirs.as_bytes()
    }
}

/// Names are distinct in theirs, so equal counts and every one of ours in theirs mean equality.
impl Same<FieldTable> for Table<'_> {
    fn same(&self, theirs: &FieldTable) -> bool {
        let theirs = theirs.inner();
        self.iter().count() == theirs.len()
            && self.iter().all(|entry| {
                let (key, value) = entry.unwrap();
                let key = std::str::from_utf8(key).unwrap();
                theirs.get(key).is_some_and(|theirs| value.same(theirs))
            })
    }
}

impl Same<FieldArray> for Array<'_> {
    fn same(&self, theirs: &FieldArray) -> bool {
        let theirs = theirs.as_slice();
        self.iter().count() == theirs.len()
            && self
                .iter()
                .zip(theirs)
                .all(|(value, theirs)| value.unwrap().same(theirs))
    }
}

impl Same<AMQPValue> for Value<'_> {
    fn same(&self, theirs: &AMQPValue) -> bool {
        match (self, theirs) {
            (Value::Bool(ours), AMQPValue::Boolean(theirs)) => ours == theirs,
            (Value::I8(ours), AMQPValue::ShortShortInt(theirs)) => ours == theirs,
            (Value::U8(ours), AMQPValue::ShortShortUInt(theirs)) => ours == theirs,
            (Value::I16(ours), AMQPValue::ShortInt(theirs)) => ours == theirs,
            (Value::U16(ours), AMQPValue::ShortUInt(theirs)) => ours == theirs,
            (Value::I32(ours), AMQPValue::LongInt(theirs)) => ours == theirs,
            (Value::U32(ours), AMQPValue::LongUInt(theirs)) => ours == theirs,
            (Value::I64(ours), AMQPValue::LongLongInt(theirs)) => ours == theirs,
            (Value::F32(ours), AMQPValue::Float(theirs)) => ours.to_bits() == theirs.to_bits(),
            (Value::F64(ours), AMQPValue::Double(theirs)) => ours.to_bits() == theirs.to_bits(),
            (Value::Decimal { scale, value }, AMQPValue::DecimalValue(theirs)) => {
                *scale == theirs.scale && *value == theirs.value as i32
            }
            (Value::LongStr(ours), AMQPValue::LongString(theirs)) => *ours == theirs.as_bytes(),
            (Value::Bytes(ours), AMQPValue::ByteArray(theirs)) => *ours == theirs.as_slice(),
            (Value::Array(ours), AMQPValue::FieldArray(theirs)) => ours.same(theirs),
            (Value::Timestamp(ours), AMQPValue::Timestamp(theirs)) => ours == theirs,
            (Value::Table(ours), AMQPValue::FieldTable(theirs)) => ours.same(theirs),
            (Value::Void, AMQPValue::Void) => true,
            _ => false,
        }
    }
}

impl<Ours: Same<Theirs>, Theirs> Same<Option<Theirs>> for Option<Ours> {
    fn same(&self, theirs: &Option<Theirs>) -> bool {
        match (self, theirs) {
            (Some(ours), Some(theirs)) => ours.same(theirs),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Same<AMQPProperties> for Properties<'_> {
    fn same(&self, theirs: &AMQPProperties) -> bool {
        self.content_type().same(theirs.content_type())
            && self.content_encoding().same(theirs.content_encoding())
            && self.headers().same(theirs.headers())
            && self.delivery_mode().same(theirs.delivery_mode())
            && self.priority().same(theirs.priority())
            && self.correlation_id().same(theirs.correlation_id())
            && self.reply_to().same(theirs.reply_to())
            && self.expiration().same(theirs.expiration())
            && self.message_id().same(theirs.message_id())
            && self.timestamp().same(theirs.timestamp())
            && self.type_().same(theirs.kind())
            && self.user_id().same(theirs.user_id())
            && self.app_id().same(theirs.app_id())
            && self.cluster_id().same(theirs.cluster_id())
    }
}

/// Each line: our variant, their class, module and struct, the fields of both (`ours = theirs` where the
/// names differ). Theirs has no `prefetch-size` of `basic.qos` and no `ticket` of `access.request-ok`.
macro_rules! same_methods {
    ($($ours:ident $class:ident $module:ident $name:ident {
        $($field:ident),* $(; $($our_field:ident = $their_field:ident),*)?
    })*) => {
        impl Same<AMQPClass> for Method<'_> {
            fn same(&self, theirs: &AMQPClass) -> bool {
                match (self, theirs) {
                    $((Method::$ours(ours), AMQPClass::$class($module::AMQPMethod::$name(theirs))) => {
                        let _ = (ours, theirs);
                        true $(&& ours.$field.same(&theirs.$field))*
                            $($(&& ours.$our_field.same(&theirs.$their_field))*)?
                    })*
                    _ => false,
                }
            }
        }
    };
}

same_methods! {
    BasicQos Basic basic Qos { prefetch_count, global }
    BasicQosOk Basic basic QosOk {}
    BasicConsume Basic basic Consume { queue, consumer_tag, no_local, no_ack, exclusive, arguments; no_wait = nowait }
    BasicConsumeOk Basic basic ConsumeOk { consumer_tag }
    BasicCancel Basic basic Cancel { consumer_tag; no_wait = nowait }
    BasicCancelOk Basic basic CancelOk { consumer_tag }
    BasicPublish Basic basic Publish { exchange, routing_key, mandatory, immediate }
    BasicReturn Basic basic Return { reply_code, reply_text, exchange, routing_key }
    BasicDeliver Basic basic Deliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key }
    BasicGet Basic basic Get { queue, no_ack }
    BasicGetOk Basic basic GetOk { delivery_tag, redelivered, exchange, routing_key, message_count }
    BasicGetEmpty Basic basic GetEmpty {}
    BasicAck Basic basic Ack { delivery_tag, multiple }
    BasicReject Basic basic Reject { delivery_tag, requeue }
    BasicRecoverAsync Basic basic RecoverAsync { requeue }
    BasicRecover Basic basic Recover { requeue }
    BasicRecoverOk Basic basic RecoverOk {}
    BasicNack Basic basic Nack { delivery_tag, multiple, requeue }
    ConnectionStart Connection connection Start { version_major, version_minor, server_properties, mechanisms, locales }
    ConnectionStartOk Connection connection StartOk { client_properties, mechanism, response, locale }
    ConnectionSecure Connection connection Secure { challenge }
    ConnectionSecureOk Connection connection SecureOk { response }
    ConnectionTune Connection connection Tune { channel_max, frame_max, heartbeat }
    ConnectionTuneOk Connection connection TuneOk { channel_max, frame_max, heartbeat }
    ConnectionOpen Connection connection Open { virtual_host }
    ConnectionOpenOk Connection connection OpenOk {}
    ConnectionClose Connection connection Close { reply_code, reply_text, class_id, method_id }
    ConnectionCloseOk Connection connection CloseOk {}
    ConnectionBlocked Connection connection Blocked { reason }
    ConnectionUnblocked Connection connection Unblocked {}
    ConnectionUpdateSecret Connection connection UpdateSecret { new_secret, reason }
    ConnectionUpdateSecretOk Connection connection UpdateSecretOk {}
    ChannelOpen Channel channel Open {}
    ChannelOpenOk Channel channel OpenOk {}
    ChannelFlow Channel channel Flow { active }
    ChannelFlowOk Channel channel FlowOk { active }
    ChannelClose Channel channel Close { reply_code, reply_text, class_id, method_id }
    ChannelCloseOk Channel channel CloseOk {}
    AccessRequest Access access Request { realm, exclusive, passive, active, write, read }
    AccessRequestOk Access access RequestOk {}
    ExchangeDeclare Exchange exchange Declare { exchange, passive, durable, auto_delete, internal, arguments; type_ = kind, no_wait = nowait }
    ExchangeDeclareOk Exchange exchange DeclareOk {}
    ExchangeDelete Exchange exchange Delete { exchange, if_unused; no_wait = nowait }
    ExchangeDeleteOk Exchange exchange DeleteOk {}
    ExchangeBind Exchange exchange Bind { destination, source, routing_key, arguments; no_wait = nowait }
    ExchangeBindOk Exchange exchange BindOk {}
    ExchangeUnbind Exchange exchange Unbind { destination, source, routing_key, arguments; no_wait = nowait }
    ExchangeUnbindOk Exchange exchange UnbindOk {}
    QueueDeclare Queue queue Declare { queue, passive, durable, exclusive, auto_delete, arguments; no_wait = nowait }
    QueueDeclareOk Queue queue DeclareOk { queue, message_count, consumer_count }
    QueueBind Queue queue Bind { queue, exchange, routing_key, arguments; no_wait = nowait }
    QueueBindOk Queue queue BindOk {}
    QueuePurge Queue queue Purge { queue; no_wait = nowait }
    QueuePurgeOk Queue queue PurgeOk { message_count }
    QueueDelete Queue queue Delete { queue, if_unused, if_empty; no_wait = nowait }
    QueueDeleteOk Queue queue DeleteOk { message_count }
    QueueUnbind Queue queue Unbind { queue, exchange, routing_key, arguments }
    QueueUnbindOk Queue queue UnbindOk {}
    TxSelect Tx tx Select {}
    TxSelectOk Tx tx SelectOk {}
    TxCommit Tx tx Commit {}
    TxCommitOk Tx tx CommitOk {}
    TxRollback Tx tx Rollback {}
    TxRollbackOk Tx tx RollbackOk {}
    ConfirmSelect Confirm confirm Select { ; no_wait = nowait }
    ConfirmSelectOk Confirm confirm SelectOk {}
}
