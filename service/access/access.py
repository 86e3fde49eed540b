"""Keys, settings of tenants, and limits in one value, kept up to date by the change feed."""

from dataclasses import dataclass

from penchant.service.access import keyring, limits
from penchant.service.access.keyring import KeyRing
from penchant.service.access.limits import Quotas, RequestLimiter, Tenancy
from penchant.service.feed import Feed
from penchant.service.settings import Settings
from penchant.service.store import keys
from penchant.service.store.database import Store


@dataclass(frozen=True)
class Access:
    """Access control of a server.

    Attributes:
        keyring: Tenant and scopes of each key.
        tenancy: Settings of each tenant.
        limiter: Limits of requests per minute.
        quotas: Limits of candidates and events per day, and of users.
    """

    keyring: KeyRing
    tenancy: Tenancy
    limiter: RequestLimiter
    quotas: Quotas
    _store: Store

    def load(self) -> None:
        """Read keys, settings of tenants and today's use from the store.

        Raises:
            SQLAlchemyError: If the store cannot be read.
        """
        self._load_keys()
        self._load_tenants()
        self.quotas.load()

    def subscribe(self, feed: Feed) -> None:
        """Follow changes of keys and tenants, and store use at each poll. Call `load` after `feed.start`."""
        feed.subscribe(keyring.CHANGE_KIND, lambda _: self._load_keys())
        feed.subscribe(limits.CHANGE_KIND, lambda _: self._load_tenants())
        feed.each_time(self.quotas.flush)

    def _load_keys(self) -> None:
        with self._store.reading() as connection:
            self.keyring.load(keys.list_keys(connection))

    def _load_tenants(self) -> None:
        with self._store.reading() as connection:
            self.tenancy.load(keys.find_tenant_settings(connection))


def build_access(settings: Settings, store: Store) -> Access:
    """Return the access control of a server. Nothing is read from the store until `Access.load`.

    Args:
        settings: Settings with the keys of the environment and the default limits of tenants.
        store: Store with keys, settings of tenants, and use.
    """
    tenants = Tenancy(settings)
    return Access(
        KeyRing(settings.get_tenant_keys()),
        tenants,
        RequestLimiter(settings, tenants),
        Quotas(store, tenants),
        store,
    )
