"""ChatML, the turns of the Qwen family: `<|im_start|>role`, a new line, the text, `<|im_end|>`."""

from collections.abc import Callable, Sequence

from research.text.messages import SYSTEM, Message, Prompt, Writer

START, END = '<|im_start|>', '<|im_end|>'


def render(
  messages: Sequence[Message],
  content: Callable[[Writer, Message], None],
  *,
  answer: bool,
  system: str = SYSTEM,
) -> Prompt:
  """A conversation in ChatML.

  Args:
    messages: a first system turn is added if there is none.
    content: writes the parts of a user or system turn.
    answer: whether the turn of the assistant is opened.
    system: text of the system turn that is added.

  Returns:
    The prompt; texts of the assistant and the `<|im_end|>` behind them are its answers.
  """
  out = Writer()
  if not messages or messages[0].role != 'system':
    messages = [Message('system', (system,)), *messages]
  for message in messages:
    out.add(f'{START}{message.role}\n')
    if message.role == 'assistant' and not message.clips:
      out.add(message.text + END, answer=True)
      out.add('\n')
      continue
    content(out, message)
    out.add(f'{END}\n')
  if answer:
    out.add(f'{START}assistant\n')
  return out.prompt()
