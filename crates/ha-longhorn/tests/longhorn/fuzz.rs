//! Whatever bytes a file has, a parser answers, and what it takes it writes back.

use ha_longhorn::backupstore::{BackupConfig, VolumeConfig};
use ha_longhorn::meta::{self, ChecksumFile, LayerMeta, VolumeMeta};
use ha_longhorn::{backing, inside, qcow2};
use proptest::prelude::*;

/// JSON-like text: real fields with values of every kind.
fn json_like() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        Just("Size"),
        Just("Head"),
        Just("Parent"),
        Just("Dirty"),
        Just("Labels"),
        Just("Created"),
        Just("Blocks"),
        Just("Offset"),
        Just("BlockChecksum"),
        Just("CompressionMethod"),
        Just("Parameters"),
        Just("BlockCount"),
        Just("backup-block-size"),
        Just("checksum"),
        Just("method"),
        Just("change_time"),
        Just("Removed"),
    ];
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("-1".to_owned()),
        Just("1e99".to_owned()),
        any::<u64>().prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| format!("\"{number}\"")),
        "[a-z0-9./\\\\\"]{0,20}".prop_map(|text| serde_json::Value::from(text).to_string()),
        "[a-f0-9]{64}".prop_map(|text| format!("[{{\"Offset\":2097152,\"BlockChecksum\":\"{text}\"}}]")),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("[[[[".to_owned()),
    ];
    proptest::collection::vec((field, value), 0..8).prop_map(|fields| {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(",")).into_bytes()
    })
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..2000), json_like()]
}

/// A qcow2 file with a sound beginning and anything in its fields and tables.
fn qcow2_like() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((0..4096_usize, any::<u8>()), 0..12);
    let fields = (2..4_u32, 9..18_u32, 0..1_u64 << 22, 0..64_u32, 0..4096_u64, 0..3_u64);
    (fields, proptest::collection::vec(any::<u64>(), 0..64), changes).prop_map(|(fields, entries, changes)| {
        let (version, bits, size, l1, offset, features) = fields;
        let mut file = vec![0; 4096];
        file[..4].copy_from_slice(&qcow2::MAGIC);
        file[4..8].copy_from_slice(&version.to_be_bytes());
        file[20..24].copy_from_slice(&bits.to_be_bytes());
        file[24..32].copy_from_slice(&size.to_be_bytes());
        file[36..40].copy_from_slice(&l1.to_be_bytes());
        file[40..48].copy_from_slice(&offset.to_be_bytes());
        file[72..80].copy_from_slice(&(features & 1).to_be_bytes());
        file[100..104].copy_from_slice(&104_u32.to_be_bytes());
        for (index, entry) in entries.iter().enumerate() {
            // Near the file, so that some tables and clusters lie in it.
            let entry = (entry & (1 << 62 | 1)) | (entry % 5000);
            file[512 + index * 8..520 + index * 8].copy_from_slice(&entry.to_be_bytes());
        }
        for (place, byte) in changes {
            file[place] = byte;
        }
        file
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn small_files(content in content()) {
        let _ = meta::parse::<VolumeMeta>(&content);
        let _ = meta::parse::<LayerMeta>(&content);
        let _ = meta::parse::<ChecksumFile>(&content);
        let _ = meta::revision(&content);
        let _ = inside::of_bytes(&content);
        let _ = qcow2::header(&content);
    }

    #[test]
    fn configurations_come_back(content in content()) {
        if let Ok(config) = VolumeConfig::parse(&content) {
            let again = VolumeConfig::parse(&config.to_bytes()).unwrap();
            prop_assert_eq!((&again.name, again.size, again.block_count), (&config.name, config.size, config.block_count));
            prop_assert_eq!(&again.compression, &config.compression);
        }
        if let Ok(config) = BackupConfig::parse(&content) {
            prop_assert_eq!(&BackupConfig::parse(&config.to_bytes()).unwrap(), &config);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn qcow2_files(content in qcow2_like()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.qcow2");
        std::fs::write(&path, &content).unwrap();
        let Ok(mut image) = backing::open(&path) else { return Ok(()) };
        let size = image.size();
        let mut buffer = vec![0; 4096];
        for position in (0..size).step_by(4096).take(200) {
            if let Ok(piece) = image.piece_at(position) {
                prop_assert!(piece.end > position && piece.end <= size);
            }
            let _ = image.read_at(position, &mut buffer);
        }
    }
}
