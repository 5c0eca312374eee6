//! Finds a bundle by the front of its key and its hash.

use super::error::{Operation, StoreError};
use super::key::{KeyPrefix, MarkerKey};
use super::url::Location;
use super::{LIST_LIMIT, Listed, Store, join_url};

impl Store {
    /// Returns the bundle that `marker` would hide, unless it does: the bundle of that log with that base
    /// offset and that hash. A LIST from the base offset on finds it, in a cloud within its first page.
    pub async fn find(&self, marker: &MarkerKey) -> Result<Option<Listed>, StoreError> {
        let prefix = KeyPrefix::log(marker.partition(), marker.log_id());
        let url = join_url(&self.url, prefix.as_str());
        // Clouds list keys in their order. On a local disk every name comes, in any order.
        let is_sorted = matches!(*self.location, Location::Bucket { .. });
        self.read(LIST_LIMIT, Operation::List, &url, || async {
            let path = self.path(prefix.as_str(), Operation::List, &url)?;
            let base = format!("{}/{:020}", prefix.as_str(), marker.base_offset());
            let before = self.path(&base, Operation::List, &url)?;
            let hidden = self.path(&marker.to_string(), Operation::List, &url)?;
            let (mut found, mut is_hidden) = (None, false);
            let mut metas = self.objects.list_with_offset(Some(&path), &before);
            while let Some(meta) = self.next(&mut metas, Operation::List, &url).await? {
                is_hidden |= meta.location == hidden;
                let Some(listed) = self.listed(meta) else { continue };
                if is_sorted && listed.key.range().first() > marker.base_offset() {
                    break;
                }
                if MarkerKey::of(&listed.key) == *marker {
                    found = Some(listed);
                }
            }
            Ok(found.filter(|_| !is_hidden))
        })
        .await
    }
}
