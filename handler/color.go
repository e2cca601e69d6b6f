package handler

import (
	"bytes"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
)

// color is red, green and blue, from 0 to 255.
type color [3]float64

var (
	black = color{0, 0, 0}
	white = color{255, 255, 255}
	// What style.css puts text on, where it has the least contrast.
	lightGround = color{0xf6, 0xf6, 0xf4}
	darkCard    = color{0x20, 0x20, 0x1e}
)

// minContrast is what WCAG 2.2 asks of text (success criterion 1.4.3).
const minContrast = 4.5

func parseColor(hex string) color {
	n, _ := strconv.ParseUint(hex[1:], 16, 32) // config checked it
	return color{float64(n >> 16), float64(n >> 8 & 0xff), float64(n & 0xff)}
}

func (c color) String() string {
	return fmt.Sprintf("#%02x%02x%02x", int(c[0]), int(c[1]), int(c[2]))
}

// luminance is WCAG's relative luminance.
func (c color) luminance() float64 {
	linear := func(channel float64) float64 {
		if channel /= 255; channel <= 0.04045 {
			return channel / 12.92
		}
		return math.Pow((channel+0.055)/1.055, 2.4)
	}
	return 0.2126*linear(c[0]) + 0.7152*linear(c[1]) + 0.0722*linear(c[2])
}

// contrast is WCAG's contrast ratio, from 1 to 21.
func (c color) contrast(other color) float64 {
	a, b := c.luminance(), other.luminance()
	return (max(a, b) + 0.05) / (min(a, b) + 0.05)
}

// readableOn returns c, mixed with as little of toward as gives it minContrast on ground.
func (c color) readableOn(ground, toward color) (mixed color) {
	for part := 0.0; ; part += 0.01 {
		for i := range mixed {
			mixed[i] = math.Round(c[i] + (toward[i]-c[i])*min(part, 1))
		}
		if mixed.contrast(ground) >= minContrast || part >= 1 {
			return mixed
		}
	}
}

// serveStyle serves the style of the pages. If the app has a color, its buttons have it,
// with black or white text, and its links what can be read of it in light and dark.
func serveStyle(appColor string) echo.HandlerFunc {
	style, err := pages.ReadFile("pages/style.css")
	if err != nil {
		panic(err) // it is embedded
	}
	if appColor != "" {
		brand, text := parseColor(appColor), white
		if brand.contrast(black) > brand.contrast(white) {
			text = black // one of them always has more than 4.5
		}
		const rule = ":root { --brand: %s; --on-brand: %s; --accent: %s }"
		style = fmt.Appendf(style, rule+"\n", brand, text, brand.readableOn(lightGround, black))
		style = fmt.Appendf(style, "@media (prefers-color-scheme: dark) { "+rule+" }\n", brand, text, brand.readableOn(darkCard, white))
	}
	return func(c echo.Context) error {
		c.Response().Header().Set("Cache-Control", assetCache)
		http.ServeContent(c.Response(), c.Request(), "style.css", time.Time{}, bytes.NewReader(style))
		return nil
	}
}
