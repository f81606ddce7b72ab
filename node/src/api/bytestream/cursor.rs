//! The protocol of one upload: what each message may be, without IO.

use tonic::Status;
use weir_cluster::Digest;
use weir_proto::bytestream::WriteRequest;

/// Where an upload stands.
pub(super) struct Cursor {
    name: String,
    digest: Digest,
    /// Bytes of the blob before the next message.
    offset: u64,
}

impl Cursor {
    /// Begins with the first message, which says where it goes on.
    pub(super) fn begin(digest: Digest, first: &WriteRequest) -> Result<Self, Status> {
        let offset = u64::try_from(first.write_offset).map_err(|_| {
            Status::invalid_argument(format!("write_offset {} is negative", first.write_offset))
        })?;
        if offset > digest.size {
            return Err(Status::invalid_argument(format!(
                "write_offset {offset} is past the end of blob {digest}"
            )));
        }
        Ok(Self {
            name: first.resource_name.clone(),
            digest,
            offset,
        })
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Checks a message and counts its data, before any of it is passed on.
    pub(super) fn accept(&mut self, message: &WriteRequest) -> Result<(), Status> {
        if !message.resource_name.is_empty() && message.resource_name != self.name {
            return Err(Status::invalid_argument(
                "resource_name changed in the middle of an upload; begin another call",
            ));
        }
        if u64::try_from(message.write_offset) != Ok(self.offset) {
            return Err(Status::invalid_argument(format!(
                "write_offset is {}, but {} bytes were received",
                message.write_offset, self.offset
            )));
        }
        let end = self.offset + message.data.len() as u64;
        if end > self.digest.size {
            return Err(Status::invalid_argument(format!(
                "upload goes beyond the size of blob {}",
                self.digest
            )));
        }
        if message.finish_write && end < self.digest.size {
            return Err(Status::invalid_argument(format!(
                "upload finished after {end} bytes of blob {}",
                self.digest
            )));
        }
        self.offset = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(name: &str, offset: i64, data: usize, finish: bool) -> WriteRequest {
        WriteRequest {
            resource_name: name.into(),
            write_offset: offset,
            finish_write: finish,
            data: Bytes::from(vec![0; data]),
        }
    }

    /// How many messages of an upload of ten bytes are accepted, if not all.
    fn check(messages: &[WriteRequest]) -> Result<(), usize> {
        let digest = Digest::of(&[0; 10]);
        let mut cursor = Cursor::begin(digest, &messages[0]).map_err(|_| 0usize)?;
        for (index, message) in messages.iter().enumerate() {
            cursor.accept(message).map_err(|_| index)?;
        }
        Ok(())
    }

    #[test]
    fn messages_follow_each_other() {
        let m = message;
        for (messages, expected) in [
            (vec![m("n", 0, 10, true)], Ok(())),
            (
                vec![m("n", 0, 4, false), m("", 4, 0, false), m("n", 4, 6, true)],
                Ok(()),
            ),
            (vec![m("n", 0, 10, false), m("", 10, 0, true)], Ok(())),
            (vec![m("n", 7, 3, true)], Ok(())),
            (vec![m("n", 0, 4, false), m("other", 4, 6, true)], Err(1)),
            (vec![m("n", 0, 4, false), m("", 0, 6, true)], Err(1)),
            (vec![m("n", 0, 4, false), m("", 5, 5, true)], Err(1)),
            (vec![m("n", 0, 11, true)], Err(0)),
            (vec![m("n", 0, 9, true)], Err(0)),
            (vec![m("n", 0, 9, false), m("", 9, 2, false)], Err(1)),
            (vec![m("n", -1, 10, true)], Err(0)),
            (vec![m("n", 11, 0, true)], Err(0)),
            (vec![m("n", i64::MAX, 1, true)], Err(0)),
            (vec![m("n", i64::MIN, 1, true)], Err(0)),
        ] {
            assert_eq!(check(&messages), expected, "{messages:?}");
        }
    }
}
