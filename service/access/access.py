"""Who may call, how often and how much: keys, tenants' settings, limits, kept fresh by the change feed."""

from dataclasses import dataclass

from penchant.service.access import keyring, tenancy
from penchant.service.access.keyring import KeyRing
from penchant.service.access.limits import Quotas, RequestLimiter
from penchant.service.access.tenancy import Tenancy
from penchant.service.feed import Feed
from penchant.service.settings import Settings
from penchant.service.store import keys
from penchant.service.store.database import Store


@dataclass(frozen=True)
class Access:
    """What a server knows of its callers.

    Attributes:
        keyring: Key → tenant and scopes.
        tenancy: Tenant → settings.
        limiter: Requests a minute.
        quotas: Candidates and events a day, users.
    """

    keyring: KeyRing
    tenancy: Tenancy
    limiter: RequestLimiter
    quotas: Quotas
    _store: Store

    def load(self) -> None:
        """Reads all of it from the store.

        Raises:
            SQLAlchemyError: The store cannot be read.
        """
        self._load_keys()
        self._load_tenants()
        self.quotas.load()

    def follow(self, feed: Feed) -> None:
        """Has changes heard, and use written down; then `load` once the feed has started."""
        feed.subscribe(keyring.CHANGE, lambda _: self._load_keys())
        feed.subscribe(tenancy.CHANGE, lambda _: self._load_tenants())
        feed.each_time(self.quotas.flush)

    def _load_keys(self) -> None:
        with self._store.reading() as connection:
            self.keyring.load(keys.list_keys(connection))

    def _load_tenants(self) -> None:
        with self._store.reading() as connection:
            self.tenancy.load(keys.find_tenant_settings(connection))


def build_access(settings: Settings, store: Store) -> Access:
    """The access of one server, nothing of it read yet.

    Args:
        settings: Keys of the environment, limits of all tenants.
        store: The store.
    """
    tenants = Tenancy(settings)
    return Access(
        KeyRing(settings.tenant_keys()),
        tenants,
        RequestLimiter(settings, tenants),
        Quotas(store, tenants),
        store,
    )
