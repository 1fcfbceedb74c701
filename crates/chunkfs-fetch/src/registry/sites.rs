//! The places of a repository, asked in order: mirrors, then the registry.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chunkfs_format::BlobId;

use super::counters::Counters;
use super::mirrors::Mirror;
use super::options::RegistryOptions;
use super::origin::Origin;
use super::patience::REREADS_MAX;
use super::range::{RangeReader, RangeRequest};
use crate::error::FetchError;
use crate::manifest::ConvertedManifest;
use crate::reference::RegistryReference;
use crate::source::{ManifestSelector, Priority, StoredManifest};

/// A mirror that fails costs its readers no more than this before the next place is asked.
const MIRROR_DEADLINE_MAX: Duration = Duration::from_secs(15);
const MIRROR_PROGRESS_TIMEOUT_MAX: Duration = Duration::from_secs(5);
const MIRROR_CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(2);
const MIRROR_RETRIES: u32 = 1;

#[derive(Debug)]
pub(super) struct Sites {
    mirrors: Vec<Site>,
    pub(super) origin: Arc<RangeReader>,
    pub(super) counters: Arc<Counters>,
}

#[derive(Debug)]
struct Site {
    reader: RangeReader,
    can_pull: bool,
    can_resolve: bool,
}

impl Sites {
    /// Sets up all places; sends nothing, but reads `hosts.toml` if the options name a folder.
    pub(super) fn new(
        reference: &RegistryReference,
        options: RegistryOptions,
    ) -> Result<Self, FetchError> {
        let repository = reference.repository();
        let counters = Arc::new(Counters::default());
        let places = options.mirrors.of(reference.host())?;
        let mut mirrors = Vec::new();
        for mirror in &places.mirrors {
            let mut options = with_certificates(options.clone(), mirror);
            options.retries_max =
                Some(options.retries_max.unwrap_or(MIRROR_RETRIES).min(MIRROR_RETRIES));
            options.is_of_mirror = true;
            options.deadline = MIRROR_DEADLINE_MAX.min(options.deadline / 4);
            options.progress_timeout = MIRROR_PROGRESS_TIMEOUT_MAX.min(options.progress_timeout);
            options.connect_timeout = MIRROR_CONNECT_TIMEOUT_MAX.min(options.connect_timeout);
            let origin = Origin::of_mirror(reference, mirror, &options)?;
            let reader = RangeReader::new(origin, repository, options, Arc::clone(&counters))?;
            let (can_pull, can_resolve) = (mirror.can_pull, mirror.can_resolve);
            mirrors.push(Site { reader, can_pull, can_resolve });
        }
        let (origin, options) = match &places.server {
            Some(server) => (
                Origin::of_mirror(reference, server, &options)?,
                with_certificates(options, server),
            ),
            None => (Origin::new(reference, &options)?, options),
        };
        let origin = RangeReader::new(origin, repository, options, Arc::clone(&counters))?;
        Ok(Self { mirrors, origin: Arc::new(origin), counters })
    }

    /// Reads a range from the first place that has it, within the deadline.
    pub(super) async fn read(&self, request: RangeRequest) -> Result<Bytes, FetchError> {
        if self.mirrors.is_empty() {
            return self.origin.read(request).await;
        }
        let after = self.origin.exchange.options.deadline;
        let what = request.blob.id;
        match tokio::time::timeout(after, self.read_in_order(request)).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Timeout { what: format!("blob {what}"), after, last: None }),
        }
    }

    async fn read_in_order(&self, request: RangeRequest) -> Result<Bytes, FetchError> {
        for site in self.mirrors.iter().filter(|site| site.can_pull && site.is_preferred()) {
            let result = site.reader.read(request.clone()).await;
            if let Ok(bytes) = site.noted(result, &self.counters) {
                return Ok(bytes);
            }
        }
        self.origin.read(request).await
    }

    /// Reads damaged bytes again: around the caches of the first place, then of the next, and so on, and
    /// several times from the registry itself.
    pub(super) async fn reread(
        &self,
        request: RangeRequest,
        damaged_count: NonZeroU32,
    ) -> Result<Option<Bytes>, FetchError> {
        let count = usize::try_from(damaged_count.get()).unwrap_or(usize::MAX);
        let mirrors: Vec<_> = self.mirrors.iter().filter(|site| site.can_pull).collect();
        // The place before gave damaged bytes although it was told to ask its own origin.
        if let Some(damaged) = count.checked_sub(2).and_then(|before| mirrors.get(before)) {
            damaged.avoid();
        }
        if count > mirrors.len() + REREADS_MAX as usize {
            return Ok(None);
        }
        self.counters.rereads.add(1);
        for site in mirrors.into_iter().skip(count - 1) {
            let result = site.reader.read(request.clone()).await;
            if let Ok(bytes) = site.noted(result, &self.counters) {
                return Ok(Some(bytes));
            }
        }
        self.origin.read(request).await.map(Some)
    }

    pub(super) fn hold_whole(&self, blob: BlobId) -> bool {
        let preferred = self.mirrors.iter().filter(|site| site.can_pull && site.is_preferred());
        preferred
            .map(|site| &site.reader)
            .chain([&*self.origin])
            .any(|reader| reader.wholes.contains(blob))
    }

    pub(super) fn release_whole(&self, blob: BlobId) {
        let mirrors = self.mirrors.iter().map(|site| &site.reader);
        mirrors.chain([&*self.origin]).for_each(|reader| reader.wholes.release(blob));
    }

    pub(super) async fn fetch_manifest(
        &self,
        selector: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        let stored = self.fetch_manifest_in_order(selector).await?;
        if let Ok(converted) = ConvertedManifest::parse(&stored.bytes) {
            let readers = self.mirrors.iter().map(|site| &site.reader).chain([&*self.origin]);
            for reader in readers {
                let blobs = converted.blobs.iter().filter_map(|blob| blob.blob().ok());
                reader.ahead.expect(blobs.map(|blob| blob.id));
            }
        }
        Ok(stored)
    }

    async fn fetch_manifest_in_order(
        &self,
        selector: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        let may_ask = |site: &&Site| {
            let can = match selector {
                ManifestSelector::Tag(_) => site.can_resolve,
                ManifestSelector::Digest(_) => site.can_pull,
            };
            can && site.is_preferred()
        };
        for site in self.mirrors.iter().filter(may_ask) {
            let result = site.reader.fetch_manifest(selector).await;
            if let Ok(stored) = site.noted(result, &self.counters) {
                return Ok(stored);
            }
        }
        self.origin.fetch_manifest(selector).await
    }
}

impl Site {
    fn is_preferred(&self) -> bool {
        let exchange = &self.reader.exchange;
        exchange.options.hosts.is_preferred(exchange.origin.host())
    }

    fn avoid(&self) {
        let exchange = &self.reader.exchange;
        exchange.options.hosts.note_failure(exchange.origin.host());
    }

    /// Notes how a mirror did. One that lacks something still works.
    fn noted<T>(
        &self,
        result: Result<T, FetchError>,
        counters: &Counters,
    ) -> Result<T, FetchError> {
        let exchange = &self.reader.exchange;
        match &result {
            Ok(_) => exchange.options.hosts.note_success(exchange.origin.host()),
            Err(error) => {
                counters.mirror_failures.add(1);
                if !error.is_not_found() {
                    self.avoid();
                }
            }
        }
        result
    }
}

impl RangeReader {
    async fn fetch_manifest(
        &self,
        selector: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        let _permit = self.limits.acquire(Priority::Demand).await?;
        self.exchange.fetch_manifest(selector).await
    }
}

fn with_certificates(mut options: RegistryOptions, mirror: &Mirror) -> RegistryOptions {
    options.root_certificates_pem.extend(mirror.root_certificates_pem.iter().cloned());
    options
}
