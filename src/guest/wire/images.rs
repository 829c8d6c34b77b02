//! The structs of the image store's methods (contract section 8). Sizes are in MiB.

use serde::Serialize;

use crate::guest::members::members;

/// The arguments of the methods for images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImageRequest {
    /// Id of the image.
    pub id: String,
    /// Kind of the image; ignored, as there is one.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where a clone goes: a dataset, relative to the pool.
    pub dest: String,
    /// Where an image comes from; ignored, as the image service is the agent's (`--image-service`).
    pub source: String,
}

members!(ImageRequest {
    "id" => id: value,
    "type" => kind: value,
    "dest" => dest: value,
    "source" => source: value,
});

/// The answer of the methods for images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImageResponse {
    /// The images.
    pub images: Vec<Image>,
}

members!(ImageResponse { "images" => images: list, });

/// An image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Its kind: empty, which callers take for an image of guests.
    #[serde(rename = "type")]
    pub kind: String,
    /// Full name of its volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub volume: String,
    /// Full name of the snapshot that is cloned.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub snapshot: String,
    /// Size in MiB.
    #[serde(rename = "size")]
    pub size_mib: u64,
    /// How far it is: `complete` or `fetching`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
}

members!(Image {
    "id" => id: value,
    "type" => kind: value,
    "volume" => volume: value,
    "snapshot" => snapshot: value,
    "size" => size_mib: value,
    "status" => status: value,
});

/// The arguments of the methods for volumes and datasets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VolumeRequest {
    /// Name of the dataset, relative to the pool.
    pub id: String,
    /// Size in MiB.
    #[serde(rename = "size")]
    pub size_mib: u64,
}

members!(VolumeRequest {
    "id" => id: value,
    "size" => size_mib: value,
});

/// The answer of the methods for volumes and datasets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VolumeResponse {
    /// The volumes.
    pub volumes: Vec<Volume>,
}

members!(VolumeResponse { "volumes" => volumes: list, });

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Full name.
    pub id: String,
    /// Size in MiB.
    #[serde(rename = "size")]
    pub size_mib: u64,
    /// Where it is on the host; empty for a dataset that is no volume.
    pub device: String,
}

members!(Volume {
    "id" => id: value,
    "size" => size_mib: value,
    "device" => device: value,
});

/// The arguments of the methods for snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotRequest {
    /// Name of a dataset or of a snapshot, relative to the pool.
    pub id: String,
    /// Name of the snapshot to take.
    pub dest: String,
    /// Whether the datasets below are meant too.
    pub recursive: bool,
    /// Whether a rollback destroys the snapshots after the one that it goes to.
    #[serde(rename = "destroyMoreRecent")]
    pub destroy_more_recent: bool,
}

members!(SnapshotRequest {
    "id" => id: value,
    "dest" => dest: value,
    "recursive" => recursive: value,
    "destroyMoreRecent" => destroy_more_recent: value,
});

/// The answer of the methods for snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotResponse {
    /// The snapshots.
    pub snapshots: Vec<Snapshot>,
}

members!(SnapshotResponse { "snapshots" => snapshots: list, });

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Full name.
    pub id: String,
    /// What was written since the snapshot before, in MiB.
    #[serde(rename = "size")]
    pub size_mib: u64,
}

members!(Snapshot {
    "id" => id: value,
    "size" => size_mib: value,
});

#[cfg(test)]
mod tests {
    use super::*;

    fn echo<T: Serialize + for<'de> serde::Deserialize<'de>>(json: &str) -> String {
        serde_json::to_string(&serde_json::from_str::<T>(json).unwrap()).unwrap()
    }

    #[test]
    fn requests_write_all_members_in_contract_order() {
        assert_eq!(echo::<ImageRequest>("{}"), r#"{"id":"","type":"","dest":"","source":""}"#);
        assert_eq!(echo::<VolumeRequest>("{}"), r#"{"id":"","size":0}"#);
        let snapshot = r#"{"id":"","dest":"","recursive":false,"destroyMoreRecent":false}"#;
        assert_eq!(echo::<SnapshotRequest>("{}"), snapshot);
    }

    #[test]
    fn answers_omit_exactly_three_image_members() {
        let bare = r#"{"images":[{"id":"","type":"","size":0}]}"#;
        assert_eq!(echo::<ImageResponse>(r#"{"images":[{}]}"#), bare);
        let full = concat!(
            r#"{"images":[{"id":"a","type":"t","volume":"v","snapshot":"v@s","size":7,"#,
            r#""status":"complete"}]}"#
        );
        assert_eq!(echo::<ImageResponse>(full), full);
        let bare = r#"{"volumes":[{"id":"","size":0,"device":""}]}"#;
        assert_eq!(echo::<VolumeResponse>(r#"{"volumes":[null]}"#), bare);
        let bare = r#"{"snapshots":[{"id":"","size":0}]}"#;
        assert_eq!(echo::<SnapshotResponse>(r#"{"snapshots":[{}]}"#), bare);
        assert_eq!(echo::<SnapshotResponse>(r#"{"snapshots":null}"#), r#"{"snapshots":[]}"#);
    }

    #[test]
    fn member_names_are_matched_as_go_does_it() {
        let request = r#"{"ID":"a@b","destroymorerecent":true,"more":1,"dest":null}"#;
        let expected = r#"{"id":"a@b","dest":"","recursive":false,"destroyMoreRecent":true}"#;
        assert_eq!(echo::<SnapshotRequest>(request), expected);
    }
}
