//! The header that says how often a message of a quorum queue was delivered before.

use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{Table, TableBuf, Value};

use crate::record::{self, Record};

const COUNT: &str = "x-delivery-count";

/// The content header of `message` with the count, if there is any.
#[cold]
pub(super) fn header(message: &Record<'_>, returns: u64) -> Vec<u8> {
    match returns {
        0 => message.header.to_vec(),
        returns => header_with(message, returns),
    }
}

/// The content header of `message` with the count.
pub(super) fn header_with(message: &Record<'_>, returns: u64) -> Vec<u8> {
    let properties = message.properties();
    let mut headers = TableBuf::new();
    let before = properties.headers().unwrap_or(Table::EMPTY);
    for (name, value) in before.iter().flatten() {
        if name != COUNT.as_bytes() {
            headers
                .try_put(name, &value)
                .expect("the name came from a table");
        }
    }
    headers.put(
        COUNT,
        &Value::I64(i64::try_from(returns).unwrap_or(i64::MAX)),
    );
    let builder = PropertiesBuilder {
        headers: Some(headers.as_table()),
        ..PropertiesBuilder::from(properties)
    };
    let mut header = Vec::new();
    record::write_header(&mut header, message.body.len(), &builder.build());
    header
}
