//! Finding out what an image consists of.

use std::sync::Arc;

use bytes::Bytes;
use chunkfs_fetch::{
    BlobDescriptor, IMAGE_ARTIFACT_TYPE, ImageSource, ManifestSelector, StoredManifest,
    fetch_verified,
};
use chunkfs_format::BlobId;
use serde::Deserialize;

use crate::error::ConvertError;
use crate::options::Platform;
use crate::pipeline::Network;

/// The largest image configuration that is read.
const CONFIG_LEN_MAX: u64 = 16 << 20;
/// How many image indexes may lie inside each other.
const INDEX_DEPTH_MAX: u32 = 4;

/// An image as its manifest and configuration describe it.
#[derive(Debug)]
pub(crate) struct Image {
    /// Its manifest.
    pub(crate) manifest: StoredManifest,
    /// The image index that its name stands for, if it is one.
    pub(crate) index: Option<StoredManifest>,
    /// The configuration, byte for byte.
    pub(crate) config: Bytes,
    /// The layers, the lowest first.
    pub(crate) layers: Vec<ImageLayer>,
}

/// A layer of an image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageLayer {
    /// The layer as stored.
    pub(crate) blob: BlobDescriptor,
    /// The digest of the uncompressed layer.
    pub(crate) diff_id: BlobId,
}

/// A manifest or an image index of OCI or Docker; they share their field names.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    artifact_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
struct RawConfig {
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Vec<String>,
}

impl Image {
    /// Fetches the manifest and the configuration of an image.
    pub(crate) fn load(
        source: &Arc<dyn ImageSource>,
        selector: &ManifestSelector,
        platform: &Platform,
        network: &Network,
    ) -> Result<Self, ConvertError> {
        let mut selector = selector.clone();
        let mut index = None;
        for _ in 0..=INDEX_DEPTH_MAX {
            let stored = network.run("the manifest", source.fetch_manifest(&selector))?;
            let manifest: RawManifest =
                serde_json::from_slice(&stored.bytes).map_err(invalid("the manifest"))?;
            match manifest.manifests {
                Some(manifests) => {
                    selector = ManifestSelector::Digest(choose(&manifests, platform)?);
                    // The outermost is the one that has the name.
                    index.get_or_insert(stored);
                }
                None => {
                    let (config, layers) = Self::load_layers(manifest, source, network)?;
                    return Ok(Self { manifest: stored, index, config, layers });
                }
            }
        }
        let problem = "image indexes lie inside each other too deeply".to_owned();
        Err(ConvertError::InvalidImage { what: "the manifest", problem })
    }

    fn load_layers(
        manifest: RawManifest,
        source: &Arc<dyn ImageSource>,
        network: &Network,
    ) -> Result<(Bytes, Vec<ImageLayer>), ConvertError> {
        if manifest.artifact_type.as_deref() == Some(IMAGE_ARTIFACT_TYPE) {
            return Err(ConvertError::AlreadyConverted);
        }
        let missing = |what: &str| invalid("the manifest")(format!("it has no {what}"));
        let config = manifest.config.ok_or_else(|| missing("configuration"))?.blob()?;
        let layers = manifest.layers.ok_or_else(|| missing("layers"))?;
        let fetch = fetch_verified(source.as_ref(), &config, CONFIG_LEN_MAX);
        let config = network.run("the configuration", fetch)?;
        let invalid_config = invalid("the configuration");
        let RawConfig { rootfs: RawRootfs { diff_ids } } =
            serde_json::from_slice(&config).map_err(&invalid_config)?;
        if diff_ids.len() != layers.len() {
            let (listed, named) = (layers.len(), diff_ids.len());
            let problem = format!("it names {named} layers and the manifest lists {listed}");
            return Err(ConvertError::InvalidImage { what: "the configuration", problem });
        }
        let layer = |(layer, diff_id): (&RawDescriptor, &String)| {
            if layer.media_type.ends_with("+encrypted") {
                return Err(invalid("the manifest")("its layers are encrypted; decrypt it first"));
            }
            let diff_id = diff_id.parse().map_err(invalid("the configuration"))?;
            Ok(ImageLayer { blob: layer.blob()?, diff_id })
        };
        let layers = layers.iter().zip(&diff_ids).map(layer).collect::<Result<_, _>>()?;
        Ok((config, layers))
    }
}

impl RawDescriptor {
    fn blob(&self) -> Result<BlobDescriptor, ConvertError> {
        let id = self.digest.parse().map_err(invalid("the manifest"))?;
        Ok(BlobDescriptor { id, len: self.size })
    }
}

/// Chooses the first image for a platform.
fn choose(manifests: &[RawDescriptor], platform: &Platform) -> Result<BlobId, ConvertError> {
    let is_match = |candidate: &&RawDescriptor| {
        let Some(offered) = &candidate.platform else { return manifests.len() == 1 };
        offered.os == platform.os
            && offered.architecture == platform.architecture
            && (platform.variant.is_none() || offered.variant == platform.variant)
    };
    let chosen = manifests.iter().find(is_match).ok_or_else(|| {
        let offered = manifests.iter().filter_map(|manifest| manifest.platform.as_ref());
        let offered = offered.filter(|offered| offered.os != "unknown").map(|offered| {
            let RawPlatform { os, architecture, variant } = offered;
            let variant = variant.as_ref().map(|variant| format!("/{variant}"));
            format!("{os}/{architecture}{}", variant.unwrap_or_default())
        });
        let available: Vec<_> = offered.take(50).collect();
        let available = if available.is_empty() { "none".to_owned() } else { available.join(", ") };
        ConvertError::NoSuchPlatform { platform: platform.to_string(), available }
    })?;
    chosen.blob().map(|blob| blob.id)
}

fn invalid<P: ToString>(what: &'static str) -> impl Fn(P) -> ConvertError {
    move |problem| ConvertError::InvalidImage { what, problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifests(platforms: &[&str]) -> Vec<RawDescriptor> {
        let descriptor = |(n, text): (usize, &&str)| {
            let platform = Platform::parse(text).map(|platform| RawPlatform {
                os: platform.os,
                architecture: platform.architecture,
                variant: platform.variant,
            });
            let digest = BlobId::of(&[n as u8]).to_string();
            RawDescriptor { media_type: String::new(), digest, size: 1, platform }
        };
        platforms.iter().enumerate().map(descriptor).collect()
    }

    #[test]
    fn the_first_image_of_the_platform_is_chosen() {
        let offered = ["unknown/unknown", "linux/arm64/v8", "linux/amd64", "linux/amd64/v3"];
        for (wanted, expected) in [
            ("linux/amd64", Some(2)),
            ("linux/amd64/v3", Some(3)),
            ("linux/arm64", Some(1)),
            ("linux/arm64/v7", None),
            ("windows/amd64", None),
        ] {
            let chosen = choose(&manifests(&offered), &Platform::parse(wanted).unwrap());
            assert_eq!(chosen.ok(), expected.map(|n: u8| BlobId::of(&[n])), "{wanted}");
        }
        let error = choose(&manifests(&offered), &Platform::parse("linux/s390x").unwrap());
        assert_eq!(
            error.unwrap_err().to_string(),
            "the image has no variant for linux/s390x, but for linux/arm64/v8, linux/amd64, \
             linux/amd64/v3; choose one of these"
        );
    }

    #[test]
    fn a_single_image_without_a_platform_is_chosen() {
        assert!(choose(&manifests(&[""]), &Platform::host()).is_ok());
        assert!(choose(&manifests(&["", ""]), &Platform::host()).is_err());
    }
}
