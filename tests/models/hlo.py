"""What a compiled program does in its loops."""
import re


def computations(compiled):
    """{name: text} of a compiled program's computations."""
    blocks = [block.strip() for block in compiled.as_text().split("\n\n")]
    return {re.match(r"(?:ENTRY )?%?([\w.\-]+)", block).group(1): block for block in blocks if block.endswith("}")}


def loop_body(compiled):
    """The text of the program's only loop body, with all that it calls."""
    texts = computations(compiled)
    body, = {name for text in texts.values() for name in re.findall(r" while\(.*body=%?([\w.\-]+)", text)}
    seen, waiting = [], [body]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.append(name)
            waiting += re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", texts[name])
    return "\n\n".join(texts[name] for name in seen)
