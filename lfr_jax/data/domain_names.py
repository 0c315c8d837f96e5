"""Names of domains in results and tables, where `ALL` stands for all of them together."""

import re

ALL = "all"


def unreserved(domain: str) -> str:
    """The name of a domain beside `ALL`: its own, except for a domain that is itself called so.

    >>> unreserved("code"), unreserved("all"), unreserved("all (domain)")
    ('code', 'all (domain)', 'all (domain) (domain)')
    """
    return f"{domain} (domain)" if re.fullmatch(rf"{ALL}( \(domain\))*", domain) else domain
