//! The two checksums that signatures are proved with.

/// CRC-32 as in GPT (polynomial 0x04C11DB7, reflected).
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    reflected(bytes, 0xedb8_8320)
}

/// CRC-32C (Castagnoli, polynomial 0x1EDC6F41, reflected).
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    reflected(bytes, 0x82f6_3b78)
}

/// Bit by bit: a few KiB for each device that is looked at need no table.
fn reflected(bytes: &[u8], polynomial: u32) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { polynomial } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values_of_the_standards() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
