"""What PyYAML lets through in a text that a person has written."""

from __future__ import annotations

import yaml


def refuse_repeated_keys(text: str) -> None:
    """Refuse a mapping that gives a key twice, of which PyYAML would drop the first value.

    Raises:
        yaml.YAMLError: naming the key and the place of the second one, or as the text is no YAML.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    waiting = [] if root is None else [root]
    # An alias is the node that it stands for.
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        keys: set[tuple[str, str]] = set()
        for key, value in node.value:
            waiting.append(value)
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in keys:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is given twice, the second time",
                    problem_mark=key.start_mark,
                )
            keys.add((key.tag, key.value))
