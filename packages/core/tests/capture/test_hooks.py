"""What `HookSet` promises: all targets before any change, once, and undone exactly."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import wrapt

from woodshed.capture import Hook, HookSet
from woodshed.errors import HookError


class Parent:
    def greet(self) -> str:
        return "hello"

    @classmethod
    def named(cls) -> str:
        return cls.__name__

    @staticmethod
    def constant() -> int:
        return 1


class Child(Parent):
    def own(self) -> str:
        return "own"


class Grandchild(Child):
    pass


@pytest.fixture
def framework() -> Iterator[str]:
    module = types.ModuleType("pretend_framework")
    module.Parent, module.Child, module.int_type = Parent, Child, int  # type: ignore[attr-defined]
    module.function = lambda: "plain"  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield module.__name__
    del sys.modules[module.__name__]


def loud(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return f"<{wrapped(*args, **kwargs)}>"


class Holder:
    @property
    def held(self) -> str:
        """What it holds."""
        return "own"


def test_a_property_is_wrapped_by_its_getter_and_restored(framework: str) -> None:
    sys.modules[framework].Holder = Holder  # type: ignore[attr-defined]
    before = Holder.__dict__["held"]
    hooks = HookSet([Hook(framework, "Holder.held", loud)])
    hooks.apply()
    assert (Holder().held, Holder.held.__doc__) == ("<own>", "What it holds.")
    hooks.revert()

    assert Holder.__dict__["held"] is before


def test_apply_wraps_and_revert_restores_the_very_same_function(framework: str) -> None:
    before = Child.__dict__["own"]
    hooks = HookSet([Hook(framework, "Child.own", loud)])
    hooks.apply()
    assert (Child().own(), hooks.applied) == ("<own>", True)
    hooks.revert()

    assert Child.__dict__["own"] is before
    assert not hooks.applied


def test_applying_twice_wraps_once(framework: str) -> None:
    hooks = HookSet([Hook(framework, "Child.own", loud)])
    hooks.apply()
    hooks.apply()
    called = Child().own()
    hooks.revert()

    assert called == "<own>"
    assert Child().own() == "own"


def test_a_function_with_two_paths_is_wrapped_once(framework: str) -> None:
    sys.modules[framework].Alias = Child  # type: ignore[attr-defined]
    hooks = HookSet([Hook(framework, "Child.own", loud), Hook(framework, "Alias.own", loud)])
    hooks.apply()
    called = Child().own()
    hooks.revert()

    assert (called, Child().own()) == ("<own>", "own")


def test_an_inherited_method_is_removed_from_the_child_again(framework: str) -> None:
    hooks = HookSet([Hook(framework, "Child.greet", loud)])
    hooks.apply()
    assert (Child().greet(), Parent().greet()) == ("<hello>", "hello")
    hooks.revert()

    assert "greet" not in Child.__dict__
    assert Child().greet() == "hello"


def test_an_inherited_classmethod_still_sees_the_class_it_is_called_on(framework: str) -> None:
    hooks = HookSet([Hook(framework, "Child.named", loud), Hook(framework, "Child.constant", loud)])
    hooks.apply()
    try:
        assert [Grandchild.named(), Child.named(), str(Child.constant())] == ["<Grandchild>", "<Child>", "<1>"]
    finally:
        hooks.revert()


def test_a_module_function_can_be_hooked(framework: str) -> None:
    hooks = HookSet([Hook(framework, "function", loud)])
    before = sys.modules[framework].function
    hooks.apply()
    assert sys.modules[framework].function() == "<plain>"
    hooks.revert()

    assert sys.modules[framework].function is before


def test_a_missing_target_changes_nothing_and_is_named(framework: str) -> None:
    before = Child.__dict__["own"]
    hooks = HookSet([Hook(framework, "Child.own", loud), Hook(framework, "Child.gone", loud)])

    with pytest.raises(HookError, match=r"pretend_framework\.Child\.gone.*nothing was changed"):
        hooks.apply()
    assert Child.__dict__["own"] is before
    assert not hooks.applied


def test_a_missing_optional_target_is_left_out(framework: str) -> None:
    hooks = HookSet([Hook(framework, "Child.gone", loud, optional=True), Hook(framework, "Child.own", loud)])
    hooks.apply()
    try:
        assert Child().own() == "<own>"
    finally:
        hooks.revert()


def test_a_target_that_cannot_be_changed_takes_the_others_back(framework: str) -> None:
    before = Child.__dict__["own"]
    hooks = HookSet([Hook(framework, "Child.own", loud), Hook(framework, "int_type.bit_length", loud)])

    with pytest.raises(TypeError):
        hooks.apply()
    assert Child.__dict__["own"] is before
    assert not hooks.applied


def wrapped_later(framework: str, hooks: HookSet) -> Any:
    hooks.apply()
    theirs = wrapt.FunctionWrapper(Child.__dict__["own"], lambda w, i, a, k: f"theirs({w(*a, **k)})")
    Child.own = theirs  # type: ignore[method-assign]
    return theirs


def test_what_somebody_wrapped_after_us_keeps_their_wrapper_and_loses_ours(framework: str) -> None:
    before, hooks = Child.__dict__["own"], HookSet([Hook(framework, "Child.own", loud)])
    try:
        theirs = wrapped_later(framework, hooks)
        assert Child().own() == "theirs(<own>)"
        hooks.revert()

        assert Child.__dict__["own"] is theirs
        assert Child().own() == "theirs(own)"
    finally:
        Child.own = before  # type: ignore[method-assign]


def test_applying_again_over_a_left_pass_through_hooks_once(framework: str) -> None:
    before, hooks = Child.__dict__["own"], HookSet([Hook(framework, "Child.own", loud)])
    try:
        wrapped_later(framework, hooks)
        hooks.revert()
        hooks.apply()
        assert Child().own() == "<theirs(own)>"
        hooks.revert()

        assert Child().own() == "theirs(own)"
    finally:
        Child.own = before  # type: ignore[method-assign]
