"""What the bridge serves over HTTP, and to whom."""

from __future__ import annotations

import pytest

from tests.bridge.attacks import attack, get, status


@pytest.mark.parametrize(
    "path",
    [
        "/page/../terms.py",
        "/page/..%2fterms.py",
        "/page/%2e%2e%2fterms.py",
        "/page/%2e%2e/terms.py",
        "/page/..%5cterms.py",
        "/page/%252e%252e%252fterms.py",
        "/page/..%00/terms.py",
        "/page/main.mjs%00.js",
        "/page//etc/passwd",
        "/page/%2fetc%2fpasswd",
        "/..%2fpage/terms.py",
        "/%2e%2e/terms.py",
        "/nowhere/terms.py",
        "/kernels/README.md",
        "/kernels/..%2fpytest_webaccel/terms.py",
        "/kernels/../pytest_webaccel/terms.py",
        "/kernels/%2e%2e/pyproject.toml",
        "/kernels/./README.md",
        "/kernels/add/..%2f..%2fpytest_webaccel%2fterms.py",
        "/kernels/add/",
        "/page/.hidden",
        "/kernels/../build.py",
        "/kernels/..%2fbuild.py",
        "/page/",
        "/page/%c0%ae%c0%ae%c0%afterms.py",
        "/page/" + "x" * 400,
        "//127.0.0.1/page/../../terms.py",
    ],
)
def test_a_path_out_of_the_served_folders_is_not_found(path):
    async def body(target):
        answer = await get(target.bridge.port, path)
        assert status(answer) in {400, 403, 404}, answer[:200]
        assert b"root:" not in answer
        assert b"class Backend" not in answer

    attack(body)


def test_what_is_served_says_what_it_is_and_who_may_use_it():
    async def body(target):
        for path, kind in [
            ("/lane", "text/html"),
            ("/page/main.mjs", "text/javascript"),
            ("/kernels/add/add.mjs", "text/javascript"),
            ("/kernels/built/simd.wasm", "application/wasm"),
        ]:
            async with target.http.get(target.origin + path) as response:
                assert response.status == 200
                assert response.content_type == kind
                assert response.headers["Cache-Control"] in {"no-store", "no-cache"}, "another version has others"
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
                assert "default-src 'none'" in response.headers["Content-Security-Policy"]
                assert "Access-Control-Allow-Origin" not in response.headers

    attack(body)


def test_a_file_needs_the_token_of_its_own_channel_and_our_origin(tmp_path):
    async def body(target):
        path = tmp_path / "model.onnx"
        path.write_bytes(b"weights")
        target.channel.send("load", files={"model": path}, deadline=30)
        [key] = [placed.name for placed in target.channel.handover.folder.iterdir()]
        other = target.bridge.open("fake:webgpu")
        url = f"{target.origin}/blob/{key}"

        async def asked(url=url, **headers):
            async with target.http.get(url, headers=headers) as response:
                return response.status

        before = target.state()
        ours = f"Bearer {target.token}"
        assert await asked() == 403
        assert await asked(Authorization=target.token) == 403
        assert await asked(Authorization=f"Basic {target.token}") == 403
        assert await asked(Authorization="Bearer " + "0" * 64) == 403
        assert await asked(Authorization=f"Bearer {other.token}") == 404
        assert await asked(Authorization=ours, Origin="http://attacker.example") == 403
        assert await asked(url + f"?token={target.token}") == 403
        assert await asked(f"{target.origin}/blob/..%2f..%2fetc%2fpasswd", Authorization=ours) == 404
        assert await asked(f"{target.origin}/blob/{path.name}", Authorization=ours) == 404
        assert await asked(Authorization=ours, Origin=target.origin) == 200
        assert target.state() == before

    attack(body)
