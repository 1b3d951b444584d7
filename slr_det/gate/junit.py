"""An evaluation as JUnit XML, the form in which CI systems read test results.

The elements, their order and their attributes are those that the two schemas in use (Jenkins' and Ant's) both allow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree

from slr_det.gate.checks import BASELINE, Check

# Characters that XML 1.0 has no way to write.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
EVALUATION = "evaluation"


def junit(
    suite: str,
    checks: Sequence[Check],
    *,
    seconds: float,
    properties: Sequence[tuple[str, str]] = (),
    error: tuple[str, str] | None = None,
    output: str = "",
) -> bytes:
    """Build the document: a test case for the evaluation itself, and one for each limit.

    Args:
        suite: Name of the suite, and of its cases' class; dots separate the parts that CI systems group by.
        checks: Limits with their verdicts; one that is not kept is a ``failure``.
        seconds: How long it took.
        properties: What else is known, by name.
        error: Kind and message of what kept the evaluation from running: the first case is then an ``error``.
        output: What was printed.

    Returns:
        UTF-8 with an XML declaration.
    """
    failed = sum(not check.passed for check in checks)
    counts = {"tests": 1 + len(checks), "failures": failed, "errors": int(error is not None), "skipped": 0}
    root = ElementTree.Element("testsuites")
    element = ElementTree.SubElement(
        root,
        "testsuite",
        {
            "id": "0",
            "package": suite,
            "name": suite,
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
            "hostname": "localhost",
            **{name: str(count) for name, count in counts.items()},
            "time": f"{seconds:.3f}",
        },
    )
    listed = ElementTree.SubElement(element, "properties")
    for name, value in properties:
        ElementTree.SubElement(listed, "property", {"name": _clean(name), "value": _clean(value)})
    ran = _case(element, suite, EVALUATION, seconds)
    if error is not None:
        kind, message = error
        _told(ran, "error", kind, message)
    for check in checks:
        case = _case(element, suite, _name(check), 0.0)
        if not check.passed:
            _told(case, "failure", check.rule, check.failure)
    ElementTree.SubElement(element, "system-out").text = _clean(output)
    ElementTree.SubElement(element, "system-err").text = ""
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _case(parent: ElementTree.Element, suite: str, name: str, seconds: float) -> ElementTree.Element:
    attributes = {"classname": suite, "name": _clean(name), "time": f"{seconds:.3f}"}
    return ElementTree.SubElement(parent, "testcase", attributes)


def _name(check: Check) -> str:
    """The same from one run to the next, so that a CI system can show a case's history."""
    return f"{check.name} {'against the baseline' if check.rule == BASELINE else check.demand}"


def _told(case: ElementTree.Element, tag: str, kind: str, message: str) -> None:
    element = ElementTree.SubElement(case, tag, {"type": kind, "message": _clean(message)})
    element.text = _clean(message)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
